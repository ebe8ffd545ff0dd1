"""The chart's templates that are made from the manifests: each is the file with values in place of some lines."""

import re
from dataclasses import dataclass
from pathlib import Path

from kubectl_serve.install import manifests
from kubectl_serve.install.manifests import PREFIX, CacheSettings
from serve_core.context.cluster import PRIVATE_NETWORKS


class ChartError(ValueError):
    """The manifests do not have what a template replaces."""


@dataclass(frozen=True)
class Edit:
    """A change of a manifest."""

    line: str
    """The line to replace."""
    text: str
    """The lines in its place."""
    whole: bool = False
    """Replace also what is below the line: the lines with more indentation, and the items of its list."""
    every: bool = False
    """The line is there more than once."""


@dataclass(frozen=True)
class Template:
    """A template of the chart, and the manifest that it is made from."""

    source: str
    """In the folder of the manifests."""
    condition: str
    """When the objects are installed."""
    edits: tuple[Edit, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    """Texts that are replaced wherever they are."""

    @property
    def name(self) -> str:
        folder, _, file = self.source.rpartition("/")
        return file if folder == "base" else f"{folder}-{file}"


REGISTRY = '{{ include "kubectl-serve.registry" . }}'
SERVER = ".Values.server.enabled"
_OWN_CERTIFICATE = 'include "kubectl-serve.certificate" .'
_LABELS = re.compile(r"^(  labels:\n    app\.kubernetes\.io/name: kubectl-serve(?:-cache)?\n)", re.MULTILINE)
_MORE_LABELS = """\
    {{- with .Values.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
"""


def _value(path: str, name: str, indent: int) -> str:
    """Lines for a field of a pod or a container, if its value is not empty."""
    space = " " * indent
    return f"""\
{space}{{{{- with {path}.{name} }}}}
{space}{name}:
{space}  {{{{- toYaml . | nindent {indent + 2} }}}}
{space}{{{{- end }}}}
"""


def _in_place(path: str, name: str, indent: int) -> Edit:
    """The field of the manifest is the default of the value."""
    return Edit(f"{' ' * indent}{name}:", _value(path, name, indent), whole=True)


def _extended(line: str, path: str, indent: int) -> Edit:
    """More entries of a mapping, after its last line."""
    space = " " * indent
    more = f"{space}{{{{- with {path} }}}}\n{space}{{{{- toYaml . | nindent {indent} }}}}\n{space}{{{{- end }}}}\n"
    return Edit(line, f"{line}\n{more}")


def _pod(path: str, account: str, *present: str) -> tuple[Edit, ...]:
    """What the values set in a pod. `present`: fields that the manifest has, with the defaults of the values."""
    fields = [name for name in ("affinity", "nodeSelector", "tolerations") if name not in present]
    line = f"      serviceAccountName: {account}"
    priority = "      {{- with PATH.priorityClassName }}\n      priorityClassName: {{ . }}\n      {{- end }}\n"
    added = "".join(_value(path, name, 6) for name in fields)
    if "priorityClassName" not in present:
        added += priority.replace("PATH", path)
    pull = """\
      {{- with .Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
"""
    return (
        Edit(line, f"{line}\n{pull}{added}"),
        *(_in_place(path, name, 6) for name in present if name != "priorityClassName"),
        _in_place(path, "resources", 10),
        _extended("        istio.io/dataplane-mode: none", f"{path}.podLabels", 8),
        _extended('        prometheus.io/port: "8080"', f"{path}.podAnnotations", 8),
        Edit(
            "          imagePullPolicy: IfNotPresent",
            "          imagePullPolicy: {{ .Values.image.pullPolicy }}\n",
        ),
    )


def _image(name: str, path: str, version: str) -> Edit:
    return Edit(
        f"          image: {PREFIX}/{name}:{version}",
        f'          image: {{{{ include "kubectl-serve.image" (list . "{name}" {path}.image) }}}}\n',
    )


def _kept(definition: str) -> Edit:
    line = f"  name: {definition}.kubectl-serve.dev"
    return Edit(line, f"{line}\n  annotations:\n    helm.sh/resource-policy: keep\n")


_CERTIFICATE_VOLUME = f"""\
        {{{{- with {_OWN_CERTIFICATE} }}}}
        - name: certificate
          secret:
            secretName: {{{{ . }}}}
        {{{{- end }}}}
"""
_CERTIFICATE_MOUNT = f"""\
            {{{{- if {_OWN_CERTIFICATE} }}}}
            - name: certificate
              mountPath: /etc/kubectl-serve/certificate
              readOnly: true
            {{{{- end }}}}
"""
_ALLOWED_NETWORKS = """\
            {{- range .Values.settings.loader.allowNetworks }}
            - --allow-network={{ . }}
            {{- end }}
"""
_TMP_MOUNT = "            - name: tmp"
_TMP_VOLUME = "        # The certificate is here for an instant: in memory, never on a disk."


def templates(version: str) -> tuple[Template, ...]:
    """All of them. `version`: of this checkout, which the manifests have in the tags of the images."""
    server, cache = ".Values.server", ".Values.cache"
    return (
        Template("base/00-namespace.yaml", f'and {SERVER} (ne .Release.Namespace "kubectl-serve")'),
        Template(
            "base/05-policies.yaml", ".Values.crds.enabled", (_kept("servingpolicies"), _kept("policyexceptions"))
        ),
        Template("base/06-runtimes.yaml", ".Values.crds.enabled", (_kept("modelruntimes"),)),
        Template("base/10-rbac.yaml", SERVER),
        Template("base/15-server-bounds.yaml", SERVER),
        Template("base/16-what-knative-runs.yaml", SERVER),
        Template(
            "base/20-settings.yaml",
            SERVER,
            (
                Edit(
                    "  settings.yaml: |",
                    '  settings.yaml: |\n    {{- include "kubectl-serve.settings" . | nindent 4 }}\n',
                    whole=True,
                ),
            ),
        ),
        Template("base/30-service.yaml", SERVER),
        Template(
            "base/40-deployment.yaml",
            SERVER,
            (
                Edit("  replicas: 2", f"  replicas: {{{{ {server}.replicas }}}}\n"),
                *_pod(server, "kubectl-serve", "tolerations", "topologySpreadConstraints"),
                _image("server", server, version),
                Edit(
                    "          args: [--identity=$(POD_NAME)]",
                    "          args:\n            - --identity=$(POD_NAME)\n"
                    f"            {{{{- if {_OWN_CERTIFICATE} }}}}\n"
                    "            - --certificate=/etc/kubectl-serve/certificate\n            {{- end }}\n",
                ),
                Edit(_TMP_MOUNT, f"{_CERTIFICATE_MOUNT}{_TMP_MOUNT}\n"),
                Edit(_TMP_VOLUME, f"{_CERTIFICATE_VOLUME}{_TMP_VOLUME}\n"),
            ),
        ),
        Template(
            "base/50-webhooks.yaml",
            SERVER,
            (
                Edit(
                    "  name: kubectl-serve",
                    "  name: kubectl-serve\n  {{- if .Values.certificates.certManager.enabled }}\n  annotations:\n"
                    "    cert-manager.io/inject-ca-from: kubectl-serve/kubectl-serve\n  {{- end }}\n",
                    every=True,
                ),
                Edit(
                    "    clientConfig:",
                    "    clientConfig:\n      {{- with .Values.certificates.authority }}\n"
                    "      caBundle: {{ b64enc . }}\n      {{- end }}\n",
                    every=True,
                ),
            ),
        ),
        Template("istio/rbac.yaml", ".Values.istio.enabled"),
        Template(
            "cache/driver.yaml",
            f"{cache}.enabled",
            (
                *_pod(cache, "kubectl-serve-cache", "tolerations", "priorityClassName"),
                Edit(
                    "      priorityClassName: system-node-critical",
                    f"      priorityClassName: {{{{ {cache}.priorityClassName }}}}\n",
                ),
                _image("model-cache", cache, version),
                Edit("            - --size=100Gi", f"            - --size={{{{ {cache}.size }}}}\n"),
                Edit(f"            - --allow-network={PRIVATE_NETWORKS[0]}", _ALLOWED_NETWORKS),
                *(Edit(f"            - --allow-network={network}", "") for network in PRIVATE_NETWORKS[1:]),
            ),
            (
                (CacheSettings().kubelet, "{{ $.Values.cache.kubelet }}"),
                (CacheSettings().path, "{{ $.Values.cache.path }}"),
            ),
        ),
    )


def text(template: Template, folder: Path) -> str:
    """The content of a template, from the manifests in `folder`. Raises ChartError."""
    source = (folder / template.source).read_text()
    if "{{" in source:
        raise ChartError(f"manifests/{template.source} has {{{{, which is Helm's")
    made = "\n" + source
    for edit in template.edits:
        made = _edited(made, edit, template.source)
    for before, after in template.texts:
        made = made.replace(before, after)
    made = _LABELS.sub(lambda found: found[0] + _MORE_LABELS, made).replace(f"{PREFIX}/", f"{REGISTRY}/")
    return _page(f"manifests/{template.source}", template.condition, made[1:])


def _edited(made: str, edit: Edit, source: str) -> str:
    line = f"\n{edit.line}\n"
    count = made.count(line)
    if not count or (count > 1 and not edit.every):
        raise ChartError(
            f"manifests/{source} has the line {edit.line.strip()!r} {count} times: change scripts/charting/templates.py"
        )
    replaced = line + _below(made, edit.line) if edit.whole else line
    return made.replace(replaced, f"\n{edit.text}")


def _below(made: str, line: str) -> str:
    """The lines after the first `line` with more indentation."""
    space = " " * (len(line) - len(line.lstrip()) + 1)
    rest = made.partition(f"\n{line}\n")[2].splitlines(keepends=True)
    end = next((index for index, each in enumerate(rest) if not each.startswith(space)), len(rest))
    return "".join(rest[:end])


def _page(source: str, condition: str, content: str) -> str:
    return (
        f"{{{{- /* Written by scripts/chart from {source}: change that. */ -}}}}\n"
        f"{{{{- if {condition} }}}}\n{content}{{{{- end }}}}\n"
    )


def catalogue() -> str:
    """The ConfigMaps of the runtimes and the known servers."""
    maps = []
    for name, files in (
        (manifests.RUNTIMES_CONFIG_MAP, manifests.runtime_files()),
        (manifests.SERVERS_CONFIG_MAP, manifests.server_files()),
    ):
        data = "".join(f"  {file.name}: |\n{_indented(file.read_text())}" for file in files)
        maps.append(
            "apiVersion: v1\nkind: ConfigMap\n"
            f"metadata:\n  name: {name}\n  namespace: kubectl-serve\n"
            "  labels:\n    app.kubernetes.io/name: kubectl-serve\n" + _MORE_LABELS + "data:\n"
            "  {{- if .Values.runtimes.enabled }}\n" + data.replace(f"{PREFIX}/", f"{REGISTRY}/") + "  {{- end }}\n"
        )
    return _page("manifests/runtimes and manifests/servers", SERVER, "---\n".join(maps))


def _indented(content: str) -> str:
    if "{{" in content:
        raise ChartError("a file of the catalogue has {{, which is Helm's")
    return "".join(f"    {line}" if line.strip() else line for line in content.splitlines(keepends=True))


def policies(folder: Path) -> str:
    """The starter policies."""
    check = """\
{{- if not (.Capabilities.APIVersions.Has "kubectl-serve.dev/v1alpha1/ServingPolicy") }}
{{- $how := "Install the chart without it, then set it with helm upgrade." }}
{{- fail (printf "policies.starter: the cluster does not have the CRD of policies yet. %s" $how) }}
{{- end }}
"""
    parts = []
    for file in sorted((folder / "policies").glob("*.yaml")):
        named = f"  name: {file.stem}\n"
        content = file.read_text()
        if content.count(named) != 1:
            raise ChartError(f"manifests/policies/{file.name} has another name than its file")
        content = content.replace(named, f"{named}  labels:\n    app.kubernetes.io/name: kubectl-serve\n{_MORE_LABELS}")
        parts.append(f'{{{{- if has "{file.stem}" .Values.policies.starter }}}}\n---\n{content}{{{{- end }}}}\n')
    content = "".join(parts).replace(f"{PREFIX}/", f"{REGISTRY}/").replace(f"- {PREFIX}\n", f"- {REGISTRY}\n")
    return _page("manifests/policies", ".Values.policies.starter", check + content)
