"""Sets of values that together reach every branch of the templates."""

from __future__ import annotations

from typing import Any

EVERYTHING: dict[str, Any] = {
    "nameOverride": "composer",
    "commonLabels": {"cost-centre": "42"},
    "image": {"repository": "registry.example/weft", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "replicas": 3,
    "crds": {"keep": False},
    "settings": {
        "sources": {
            "default": {
                "url": "http://prometheus.monitoring:9090",
                "scrape_interval_seconds": 2.5,
                "timeout_seconds": 4,
                "max_response_bytes": 1_000_000,
            },
            "thanos": {
                "url": "https://thanos.monitoring/query",
                "method": "GET",
                "basic_auth": {"username": "weft", "password_file": "/etc/weft-secrets/thanos/password"},
                "ca_file": "/etc/weft-secrets/thanos/ca.crt",
                "certificate_file": "/etc/weft-secrets/thanos/tls.crt",
                "key_file": "/etc/weft-secrets/thanos/tls.key",
                "headers": {"X-Scope-OrgID": "team-a"},
                "query_parameters": {"dedup": ["true"], "replicaLabels[]": ["prometheus_replica"]},
            },
            "mimir": {
                "url": "https://mimir.monitoring",
                "bearer_token_file": "/etc/weft-secrets/mimir/token",
            },
        },
        "presets": {
            "mine": {
                "inherits": "vllm",
                "engine": {"waiting": 'sum by (namespace, pod) (queue{kind="a: b"})'},
                "front_end": {"jobs": "count by (namespace, model_name) (up)"},
                "kv_hold_seconds": 0,
                "role_switch": {
                    "port": 8000,
                    "path": "/switch",
                    "body": {"prefill": {"to": "p"}, "decode": {"to": "d"}},
                    "role_path": "/role",
                    "role_field": "state.role",
                    "role": {"prefill": "p", "decode": "d"},
                    "unchanged_field": "unchanged",
                    "timeout_seconds": 60,
                },
            }
        },
        "scale_targets": [
            {"group": "apps", "version": "v1", "kind": "Deployment", "resource": "deployments"}
        ],
        "workers": 64,
        "lease_seconds": 30,
        "relist_seconds": 600,
        "inventory_seconds": 20.5,
        "api_timeout_seconds": 20,
        "log_format": "text",
        "log_level": "DEBUG",
    },
    "mountedSecrets": ["thanos", "mimir"],
    "extraEnv": [
        {"name": "SSL_CERT_FILE", "value": "/etc/bundle/ca.crt"},
        {"name": "WEFT_WORKERS", "valueFrom": {"configMapKeyRef": {"name": "tuning", "key": "workers"}}},
    ],
    "extraVolumes": [{"name": "bundle", "configMap": {"name": "bundle"}}],
    "extraVolumeMounts": [{"name": "bundle", "mountPath": "/etc/bundle", "readOnly": True}],
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ],
        "egress": [
            {"to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}], "ports": [{"port": 6443}]},
            {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": [{"port": 443}]},
        ],
    },
    "serviceAccount": {"name": "operator", "annotations": {"example/role": "weft"}},
    "terminationGracePeriodSeconds": 45,
    "podLabels": {"team": "infra"},
    "podAnnotations": {"prometheus.io/scrape": "true"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system-cluster-critical",
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "runbookUrl": "https://docs.example/metrics",
    },
    "dashboards": {"enabled": True, "labels": {"grafana_dashboard": "weft"}},
    "emulator": {
        "enabled": True,
        "extraArgs": ["--latency-ms=200"],
        "existingClaim": "rack",
        "more": [
            {
                "name": "memory",
                "inventory": {"name": "memory", "hosts": [{"name": "sled"}], "devices": []},
                "extraArgs": ["--dialect=connections"],
            }
        ],
        "tolerations": [{"operator": "Exists"}],
    },
    "tenantRoles": {
        "plan": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}]
    },
}
CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "with the emulator": {"emulator": {"enabled": True}},
    "without what can be left out": {
        "crds": {"enabled": False},
        "tenantRoles": {"enabled": False},
        "serviceAccount": {"create": False, "name": "mine"},
        "resources": {},
    },
    "with a pod monitor": {
        "podMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}}
    },
    "with everything": EVERYTHING,
}
