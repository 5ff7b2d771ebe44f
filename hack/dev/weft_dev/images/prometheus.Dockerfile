# Prometheus where the official image cannot be pulled: one static binary, the same paths and user as that one's.
FROM scratch
COPY prometheus /bin/prometheus
COPY --chown=65534:65534 data /prometheus
USER 65534:65534
WORKDIR /prometheus
EXPOSE 9090
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
LABEL org.opencontainers.image.title="Prometheus" org.opencontainers.image.licenses="Apache-2.0"
