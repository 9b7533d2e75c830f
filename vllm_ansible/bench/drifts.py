"""What a person, or time, may change on a server, each as a command that does it."""

from __future__ import annotations

from dataclasses import dataclass

# The one instance and the model of the stand-in's inventory.
_UNIT, _CONFIG = "vllm@tiny.service", "/etc/vllm/tiny.yaml"
_MODEL = "/srv/models/tiny/*/"
_PACKAGES = "/opt/vllm/current/lib/python3.*/site-packages"


@dataclass(frozen=True)
class Drift:
    """A change by hand.

    Attributes:
        name: What tables call it.
        script: Makes it, in a shell on the server.
    """

    name: str
    script: str


DRIFTS = (
    Drift("file changed", f"echo 'max-num-seqs: 1' >> {_CONFIG}"),
    Drift("file's mode changed", f"chmod 0666 {_CONFIG}"),
    Drift("file removed", "rm /etc/nginx/conf.d/vllm.conf"),
    Drift("package added", f"cd {_PACKAGES} && mkdir added added-1.0.dist-info && "
          "touch added/__init__.py && cd added-1.0.dist-info && "
          "printf 'Metadata-Version: 2.1\\nName: added\\nVersion: 1.0\\n' > METADATA && "
          "printf '%s,,\\n' added/__init__.py added-1.0.dist-info/METADATA "
          "added-1.0.dist-info/RECORD > RECORD"),
    Drift("unit disabled", f"systemctl disable --now {_UNIT}"),
    Drift("model altered, same size", f"cd {_MODEL} && printf x | dd of=model.safetensors "
          "bs=1 seek=4000000 conv=notrunc status=none"),
    Drift("model altered, another size", f"cd {_MODEL} && truncate -s -1 model.safetensors"),
    Drift("service ill", "touch /var/cache/vllm/tiny/ill"),
    Drift("link moved", "mkdir -p /opt/vllm/releases/other && "
          "ln -sfn /opt/vllm/releases/other /opt/vllm/current"),
    Drift("drop-in added", f"mkdir -p /etc/systemd/system/{_UNIT}.d && printf '[Service]\\n"
          f"Nice=5\\n' > /etc/systemd/system/{_UNIT}.d/zz.conf && systemctl daemon-reload"),
)  # fmt: skip
