# kube-proxy with the packet filter's programs that it runs, and the libraries of those.
ARG OS
FROM $OS AS programs
LABEL dev.weft.part=node
RUN set -eu; mkdir -p /out/run /out/tmp; libraries=$(dirname "$(find /usr/lib -type d -name xtables)"); \
    cp --parents --archive /usr/sbin/xtables-nft-multi /out; \
    cp --parents --dereference /usr/sbin/nft /usr/sbin/conntrack /out; \
    cp --parents --recursive "$libraries/xtables" /out; \
    for program in iptables ip6tables; do for suffix in "" -save -restore; do \
      ln -s xtables-nft-multi "/out/usr/sbin/$program$suffix"; done; done; \
    ldd /usr/sbin/xtables-nft-multi /usr/sbin/nft /usr/sbin/conntrack "$libraries"/xtables/*.so \
      | awk '$2 == "=>" {print $3} $1 ~ "^/.*/ld-linux" {print $1}' | sort --unique \
      | xargs cp --parents --dereference --target-directory=/out
FROM scratch
LABEL dev.weft.part=node
COPY --from=programs /out /
COPY kube-proxy /usr/local/bin/
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["kube-proxy"]
