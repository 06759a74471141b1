"""Specs of pods in the shapes that public charts give them: what they have in common with the world, in few words."""

from __future__ import annotations

from typing import Any, Final

from tests.injector.making import Tree

RESTRICTED: Final[Tree] = {
    "runAsNonRoot": True,
    "runAsUser": 1001,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(name: str, **more: Any) -> Tree:
    return {"name": name, "image": f"registry.example/{name}:1", **more}


def mounts(*names: str) -> list[Tree]:
    return [{"name": name, "mountPath": f"/mnt/{name}"} for name in names]


def http(path: str, port: int | str) -> Tree:
    return {"httpGet": {"path": path, "port": port}, "initialDelaySeconds": 5}


SHAPES: Final[dict[str, Tree]] = {
    "one container": {"containers": [container("app")]},
    "a web server with everything": {
        "serviceAccountName": "default",
        "automountServiceAccountToken": True,
        "enableServiceLinks": True,
        "securityContext": {"fsGroup": 1001, "fsGroupChangePolicy": "OnRootMismatch", "sysctls": []},
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "podAffinityTerm": {
                            "labelSelector": {"matchLabels": {"app": "web"}},
                            "topologyKey": "kubernetes.io/hostname",
                        },
                    }
                ]
            }
        },
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "web", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["db.internal"]}],
        "imagePullSecrets": [{"name": "regcred"}],
        "containers": [
            container(
                "web",
                ports=[{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9113}],
                env=[
                    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "URL", "value": "http://$(POD_IP):8080"},
                ],
                envFrom=[{"configMapRef": {"name": "web"}}, {"secretRef": {"name": "web", "optional": True}}],
                livenessProbe=http("/healthz", "http"),
                readinessProbe={"exec": {"command": ["/bin/ready"]}},
                startupProbe={"tcpSocket": {"port": "http"}, "failureThreshold": 30},
                lifecycle={"preStop": {"exec": {"command": ["/bin/sh", "-c", "sleep 5"]}}},
                resources={"requests": {"cpu": "100m"}, "limits": {"cpu": 1, "memory": "1Gi"}},
                securityContext=RESTRICTED,
                volumeMounts=[
                    *mounts("tmp", "config"),
                    {"name": "config", "mountPath": "/etc/web/web.conf", "subPath": "web.conf", "readOnly": True},
                ],
            )
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
            {"name": "config", "configMap": {"name": "web", "items": [{"key": "web.conf", "path": "web.conf"}]}},
        ],
    },
    "a database of a stateful set": {
        "hostname": "db-0",
        "subdomain": "db",
        "terminationGracePeriodSeconds": 120,
        "securityContext": {"fsGroup": 1001, "runAsUser": 1001, "runAsNonRoot": True},
        "initContainers": [
            container(
                "own",
                command=["chown"],
                securityContext={"runAsUser": 0, "runAsNonRoot": False},
                volumeMounts=mounts("data"),
            )
        ],
        "containers": [
            container("db", ports=[{"containerPort": 5432}], volumeMounts=[*mounts("data", "shm")]),
            container("exporter", ports=[{"name": "metrics", "containerPort": 9187}]),
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    },
    "a search engine that tunes its node": {
        "initContainers": [
            container(
                "sysctl", command=["sysctl", "-w", "vm.max_map_count=262144"], securityContext={"privileged": True}
            )
        ],
        "containers": [
            container(
                "search",
                ports=[{"containerPort": 9200}],
                securityContext={"capabilities": {"add": ["IPC_LOCK"], "drop": ["ALL"]}},
            )
        ],
    },
    "an agent of every node": {
        "dnsPolicy": "ClusterFirstWithHostNet",
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists"}],
        "containers": [
            container(
                "agent",
                securityContext={"privileged": True},
                volumeMounts=[{"name": "log", "mountPath": "/var/log", "readOnly": True}],
            )
        ],
        "volumes": [{"name": "log", "hostPath": {"path": "/var/log", "type": "Directory"}}],
    },
    "a job": {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 600,
        "terminationGracePeriodSeconds": 0,
        "containers": [container("migrate", command=["/migrate"], args=["up"])],
    },
    "a job of a mesh": {
        "restartPolicy": "OnFailure",
        "initContainers": [
            container(
                "proxy", restartPolicy="Always", ports=[{"containerPort": 15021}], startupProbe=http("/ready", 15021)
            ),
            container("seed", env=[{"name": "VAULT_ADDR", "value": "https://vault.example:8200"}]),
        ],
        "containers": [
            container("work", env=[{"name": "BAO_ADDR", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}])
        ],
    },
    "a dashboard with its helpers": {
        "shareProcessNamespace": False,
        "securityContext": {"runAsUser": 472, "runAsGroup": 472, "fsGroup": 472, "supplementalGroups": [10]},
        "initContainers": [container("download", command=["sh", "-c", "mkdir -p /x"], volumeMounts=mounts("storage"))],
        "containers": [
            container("datasources", env=[{"name": "METHOD", "value": "WATCH"}], volumeMounts=mounts("storage")),
            container("dashboards", env=[{"name": "METHOD", "value": "WATCH"}], volumeMounts=mounts("storage")),
            container("grafana", ports=[{"containerPort": 3000}], volumeMounts=mounts("storage")),
        ],
        "volumes": [{"name": "storage", "emptyDir": {}}],
    },
    "an account of a cloud": {
        "automountServiceAccountToken": False,
        "containers": [
            container(
                "dns",
                env=[{"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::1:role/dns"}],
                volumeMounts=mounts("aws-iam-token", "bundle"),
            )
        ],
        "volumes": [
            {
                "name": "aws-iam-token",
                "projected": {
                    "defaultMode": 0o440,
                    "sources": [
                        {"serviceAccountToken": {"audience": "sts.amazonaws.com", "path": "token"}},
                        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                    ],
                },
            },
            {"name": "bundle", "csi": {"driver": "csi.example", "readOnly": True}},
        ],
    },
    "guaranteed resources": {
        "runtimeClassName": None,
        "containers": [
            container("rt", resources={"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"cpu": 2, "memory": "4Gi"}})
        ],
    },
    "a claim made for it": {
        "containers": [
            container("build", volumeMounts=mounts("scratch"), volumeDevices=[{"name": "raw", "devicePath": "/dev/x"}])
        ],
        "volumes": [
            {
                "name": "scratch",
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
                    }
                },
            },
            {"name": "raw", "persistentVolumeClaim": {"claimName": "raw"}},
        ],
    },
    "a user namespace": {"hostUsers": False, "containers": [container("app")]},
    "resources of the whole pod": {
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        "containers": [container("one", resources={"requests": {"cpu": "900m"}}), container("two")],
    },
    "resources of the whole pod, used up": {
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "containers": [container("one", resources={"requests": {"cpu": "1", "memory": "1Gi"}})],
    },
    "gated": {"schedulingGates": [{"name": "example.com/quota"}], "containers": [container("app")]},
    "Linux by name": {
        "os": {"name": "linux"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "containers": [container("app")],
    },
    "processes seen by who cannot look into them": {
        "shareProcessNamespace": True,
        "containers": [container("app", securityContext=RESTRICTED)],
    },
}
