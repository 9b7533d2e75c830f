"""Checks one host's words against the schema and the project's data, and collects every error."""

from __future__ import annotations

import difflib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packaging.version import Version
from pydantic import BaseModel, ValidationError

from vllm_ansible.schema import problems as p
from vllm_ansible.schema.models import check_model, token_path
from vllm_ansible.schema.template import TemplateError, read_template
from vllm_ansible.schema.words import (
    KEY_PATTERN,
    SECRET_NAME,
    SECRET_OPTION,
    USER,
    Downloads,
    Engine,
    Gateway,
    Instance,
    Login,
    Logs,
    Mirror,
    Model,
    Releases,
    Sources,
    Tuned,
    Webui,
    Words,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm_ansible.data import Data

WORDS: dict[str, Any] = {
    "vllm_conda_users": None,
    "vllm_downloads": Downloads,
    "vllm_engine": Engine,
    "vllm_fast_path": None,
    "vllm_gateway": Gateway,
    "vllm_instances": Instance,
    "vllm_logs": Logs,
    "vllm_mirror": Mirror,
    "vllm_models": Model,
    "vllm_releases": Releases,
    "vllm_sources": Sources,
    "vllm_tuned": Tuned,
    "vllm_webui": Webui,
}
# What the playbooks and the project's data themselves add to a host's variables.
INTERNAL = (
    "vllm_build_", "vllm_data_", "vllm_release_", "vllm_plan", "vllm_host", "vllm_receipt",
    "vllm_site", "vllm_validated", "vllm_webui_plan", "vllm_webui_receipt",
)  # fmt: skip
OWNED_ARGUMENTS = {
    "allowed-local-media-path": "vllm_instances[].media_path",
    "allowed-media-domains": "nothing: the engine has no network",
    "api-key": "vllm_gateway.api_key",
    "chat-template": "vllm_instances[].chat_template",
    "config": "the other words",
    "disable-log-requests": "vllm_logs.requests",
    "disable-log-stats": "vllm_logs.statistics",
    "dtype": "vllm_instances[].dtype",
    "enable-log-requests": "vllm_logs.requests",
    "enforce-eager": "vllm_instances[].compile",
    "host": "vllm_gateway.listen",
    "limit-mm-per-prompt": "vllm_instances[].images",
    "max-log-len": "vllm_logs.prompt_characters",
    "max-model-len": "vllm_instances[].max_model_len",
    "model": "vllm_instances[].model",
    "pooler-config": "vllm_instances[].pooling",
    "port": "vllm_instances[].port",
    "runner": "vllm_models.<model>.kind",
    "served-model-name": "vllm_instances[].served_names",
    "task": "vllm_models.<model>.kind",
    "uds": "nothing: the plan sets the socket",
}
# Words that only some kinds of model know.
KIND_WORDS: dict[str, tuple[str, ...]] = {
    "chat_template": ("vision", "text"),
    "images": ("vision",),
    "media_path": ("vision",),
    "pooling": ("embedding",),
}
SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 256
_MISSPELT = 0.8
_HIDDEN = "a value that is not shown"


@dataclass
class Checked:
    """The words, when they are right, and every error."""

    words: Words | None
    problems: list[p.Problem]


@dataclass
class _Check:
    host: str
    variables: Mapping[str, Any]
    sealed: Collection[str]
    data: Data
    problems: list[p.Problem] = field(default_factory=list)

    def refuse(self, path: Sequence[str | int], given: str, allowed: str) -> None:
        self.problems.append(p.Problem(self.host, p.dotted(path), given, p.masked(allowed)))

    def parse(self, model: type[BaseModel], path: Sequence[str | int], value: Any) -> Any:
        """The typed value at a path, its errors noted.

        What has an error is left out of the value returned, so that the rest is checked too;
        None when nothing can be made of it.
        """
        if not isinstance(value, Mapping):
            self.refuse(path, p.shown(value), "a mapping")
            return None
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for one in error.errors():
                where = [*path, *(part for part in one["loc"] if part != "[key]")]
                given = p.shown(p.value_at(value, one["loc"]))
                if is_secret(where):
                    given = _HIDDEN
                self.refuse(where, given, p.allowed_by(one, model))
            bad = {one["loc"][0] for one in error.errors()}
            try:
                return model.model_validate({k: v for k, v in value.items() if k not in bad})
            except ValidationError:
                return None


# By which names the values of an instance's words are secrets.
SECRET_OF: Mapping[str | int, re.Pattern[str]] = {"env": SECRET_NAME, "extra_args": SECRET_OPTION}


def is_secret(path: Sequence[str | int]) -> bool:
    """Whether the value at a path of a host's variables is a secret by its name."""
    if list(path[:2]) == ["vllm_gateway", "api_key"] or token_path(path):
        return True
    if path[:1] == ["vllm_webui"] and path[-1:] == ["password"]:
        return True
    if path[:1] != ["vllm_instances"] or len(path) != 4 or path[2] not in SECRET_OF:  # noqa: PLR2004
        return False
    return bool(SECRET_OF[path[2]].search(str(path[3])))


def check_host(
    host: str, variables: Mapping[str, Any], data: Data, sealed: Collection[str] = ()
) -> Checked:
    """Checks all that one host's inventory says.

    Args:
        host: The host's name in the inventory.
        variables: Its variables, templated and plain.
        data: The project's data.
        sealed: Paths (such as `vllm_gateway.api_key`) whose values come out of a vault.

    Returns:
        The words (None when anything is wrong) and every error found.
    """
    check = _Check(host, variables, sealed, data)
    check.problems += check_names(host, variables)
    engine = check.parse(Engine, ["vllm_engine"], variables.get("vllm_engine", {}))
    sources = check.parse(Sources, ["vllm_sources"], variables.get("vllm_sources", {}))
    gateway = check.parse(Gateway, ["vllm_gateway"], variables.get("vllm_gateway", {}))
    logs = check.parse(Logs, ["vllm_logs"], variables.get("vllm_logs", {}))
    downloads = check.parse(Downloads, ["vllm_downloads"], variables.get("vllm_downloads", {}))
    releases = check.parse(Releases, ["vllm_releases"], variables.get("vllm_releases", {}))
    models = _models(check)
    instances = _instances(check, models)
    templates = _templates(check)
    # What it says is used by the mirror host's own plan; here only its words are looked at.
    check.parse(Mirror, ["vllm_mirror"], variables.get("vllm_mirror", {}))
    webui = _webui(check)
    users = _users(check)
    fast_path = _fast_path(check)
    if engine is not None:
        _engine(check, engine)
    if sources is not None:
        _sources(check, sources)
    if gateway is not None:
        _gateway(check, gateway)
    if logs is not None and logs.prompt_characters and not logs.requests:
        allowed = "0, or requests: true beside it"
        check.refuse(["vllm_logs", "prompt_characters"], str(logs.prompt_characters), allowed)
    _secrets(check)
    _urls(check)
    if check.problems:
        return Checked(None, sorted(set(check.problems)))
    roles = variables.get("__role_variables__", {})
    words = Words(
        engine=engine, sources=sources, gateway=gateway, models=models, instances=instances,
        logs=logs, chat_templates=templates, downloads=downloads, releases=releases,
        conda_users=users, webui=webui, role_variables=roles, fast_path=fast_path,
    )  # fmt: skip
    return Checked(words, [])


def check_webui(
    host: str, variables: Mapping[str, Any], data: Data, sealed: Collection[str] = ()
) -> Checked:
    """Checks what the inventory says of a host that has the web UI and is no server.

    Args:
        host: The host's name in the inventory.
        variables: Its variables, templated and plain.
        data: The project's data.
        sealed: Paths whose values come out of a vault.

    Returns:
        The words (None when anything is wrong) and every error found.
    """
    check = _Check(host, variables, sealed, data)
    check.problems += check_names(host, variables)
    sources = check.parse(Sources, ["vllm_sources"], variables.get("vllm_sources", {}))
    webui = _webui(check)
    fast_path = _fast_path(check)
    if sources is not None:
        _sources(check, sources)
    _secrets(check)
    _urls(check)
    if check.problems or sources is None or webui is None:
        return Checked(None, sorted(set(check.problems)))
    roles = variables.get("__role_variables__", {})
    words = Words(
        instances=[], sources=sources, webui=webui, role_variables=roles, fast_path=fast_path
    )
    return Checked(words, [])


def check_names(host: str, variables: Mapping[str, Any]) -> list[p.Problem]:
    """Refuses top-level names that look like ours and are not."""
    found = []
    for name in variables:
        if name in WORDS or name.startswith((*INTERNAL, "__")):
            continue
        close = difflib.get_close_matches(name, WORDS, n=1, cutoff=_MISSPELT)
        if name.startswith("vllm_") or close:
            allowed = f"no such variable, {p.suggestion(name, WORDS)}"
            found.append(p.Problem(host, name, "this name", p.masked(allowed)))
    return found


def _users(check: _Check) -> list[str]:
    given = check.variables.get("vllm_conda_users", [])
    if not isinstance(given, list):
        check.refuse(["vllm_conda_users"], p.shown(given), "a list of users' names")
        return []
    for index, name in enumerate(given):
        if not re.fullmatch(USER, str(name)):
            check.refuse(["vllm_conda_users", index], p.shown(name), "a user's name on the host")
    return [str(name) for name in given]


def _fast_path(check: _Check) -> bool:
    given = check.variables.get("vllm_fast_path", True)
    # What -e says comes as a text.
    words = {"true": True, "yes": True, "false": False, "no": False}
    if str(given).lower() not in words:
        check.refuse(["vllm_fast_path"], p.shown(given), "true or false")
    return words.get(str(given).lower(), True)


def _models(check: _Check) -> dict[str, Model]:
    given = check.variables.get("vllm_models", {})
    if not isinstance(given, Mapping):
        check.refuse(["vllm_models"], p.shown(given), "a mapping from a name to a model")
        return {}
    found = {}
    for name, value in given.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", str(name)):
            check.refuse(["vllm_models", name], p.shown(name), "a name of a-z 0-9 . _ -")
        model = check.parse(Model, ["vllm_models", name], value)
        if model is not None:
            found[str(name)] = model
            for path, said, allowed in check_model(model):
                check.refuse(["vllm_models", str(name), *path], said, allowed)
            for index, source in enumerate(model.sources):
                if source.token_file is not None:
                    place: list[str | int] = ["vllm_models", str(name), "sources", index]
                    _key_file(check, [*place, "token_file"], source.token_file)
    return found


def _instances(check: _Check, models: dict[str, Model]) -> list[Instance]:
    given = check.variables.get("vllm_instances", p.NOTHING)
    if not isinstance(given, list) or not given:
        allowed = "a list of at least one instance: [{name: ..., model: ...}]"
        check.refuse(["vllm_instances"], p.shown(given), allowed)
        return []
    known = {*check.data.models, *models, *_names_of(check.variables.get("vllm_models"))}
    tuned = _tuned(check, given)
    found = []
    for index, value in enumerate(given):
        path: list[str | int] = ["vllm_instances", index]
        instance = check.parse(Instance, path, _with_tuned(value, tuned))
        if isinstance(value, Mapping):
            model = value.get("model")
            if isinstance(model, str) and model not in known:
                allowed = (
                    f"a model of the catalogue or of vllm_models, {p.suggestion(model, known)}"
                )
                check.refuse([*path, "model"], p.shown(model), allowed)
            _arguments(check, path, value.get("extra_args"))
            _kind_words(check, path, value, models)
        if instance is not None:
            found.append(instance)
    _unique(check, given)
    return found


def _tuned(check: _Check, instances: list[Any]) -> dict[str, dict[str, Any]]:
    """What was found for the host's instances by `scripts/tune`, by instance."""
    given = check.variables.get("vllm_tuned", {})
    if not isinstance(given, Mapping):
        check.refuse(["vllm_tuned"], p.shown(given), "a mapping from an instance's name to words")
        return {}
    names = [str(one["name"]) for one in instances if isinstance(one, Mapping) and "name" in one]
    found = {}
    for name, value in given.items():
        path: list[str | int] = ["vllm_tuned", str(name)]
        if str(name) not in names:
            check.refuse(path, p.shown(name), f"an instance of the host, {', '.join(names)}")
        words = check.parse(Tuned, path, value)
        if words is not None:
            _arguments(check, path, words.extra_args)
            found[str(name)] = words.model_dump(exclude_unset=True, exclude_none=True)
    return found


def _with_tuned(value: Any, tuned: Mapping[str, Mapping[str, Any]]) -> Any:
    """An instance with what was found for it, where it does not say the word itself."""
    found = tuned.get(str(value.get("name"))) if isinstance(value, Mapping) else None
    if not found:
        return value
    arguments = value.get("extra_args", {})
    if not isinstance(arguments, Mapping):
        return value
    merged = {**found.get("extra_args", {}), **arguments}
    return {**found, **value, **({"extra_args": merged} if merged else {})}


def _kind_words(
    check: _Check, path: Sequence[str | int], given: Mapping[str, Any], models: dict[str, Model]
) -> None:
    """Refuses words that a model of another kind wants."""
    model = {**check.data.models, **models}.get(str(given.get("model")))
    for word, kinds in KIND_WORDS.items():
        if model is not None and given.get(word) is not None and model.kind not in kinds:
            allowed = f"nothing: {given['model']} is of kind {model.kind}, this is for {kinds[-1]}"
            check.refuse([*path, word], p.shown(given[word]), allowed)


def _templates(check: _Check) -> dict[str, str]:
    """The chat templates that instances name, by instance; each must be one."""
    given = check.variables.get("vllm_instances")
    found = {}
    for index, value in enumerate(given if isinstance(given, list) else []):
        name = value.get("chat_template") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or not name.startswith(("/", "~/")):
            continue
        try:
            found[str(value.get("name"))] = read_template(Path(name).expanduser())
        except TemplateError as error:
            where: list[str | int] = ["vllm_instances", index, "chat_template"]
            check.refuse(where, f"{name} ({error})", "a chat template in Jinja2")
    return found


def _names_of(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, Mapping) else []


def _unique(check: _Check, instances: list[Any]) -> None:
    """Refuses a name or port that two instances of the host share."""
    for key, default in (("name", None), ("port", 8000)):
        first: dict[str, int] = {}
        for index, value in enumerate(instances):
            given = value.get(key, default) if isinstance(value, Mapping) else None
            if given is None:
                continue
            if str(given) in first:
                other = f"vllm_instances[{first[str(given)]}]"
                allowed = f"a {key} of its own ({other} has the same)"
                check.refuse(["vllm_instances", index, key], p.shown(given), allowed)
            first.setdefault(str(given), index)


def _arguments(check: _Check, path: Sequence[str | int], given: Any) -> None:
    """Refuses arguments of `vllm serve` that other words set."""
    for name in given if isinstance(given, Mapping) else ():
        flag = str(name).lstrip("-").replace("_", "-")
        if flag in OWNED_ARGUMENTS or flag.startswith("ssl-"):
            instead = OWNED_ARGUMENTS.get(flag, "the gateway's own TLS")
            check.refuse([*path, "extra_args", name], "a value", f"not here: set by {instead}")


def _engine(check: _Check, engine: Engine) -> None:
    versions = check.data.versions
    version = engine.version or versions.default_vllm
    known = versions.vllm.get(version)
    if known is None:
        names = ", ".join(sorted(versions.vllm, key=Version))
        check.refuse(["vllm_engine", "version"], p.shown(version), f"a known version: {names}")
        return
    python = engine.python or versions.default_python
    fitting = [one for one in versions.pythons if known.supports(one)]
    if python not in fitting:
        allowed = f"a Python that vLLM {version} runs on ({known.python}): {', '.join(fitting)}"
        check.refuse(["vllm_engine", "python"], p.shown(python), allowed)
    if engine.device != "auto" and engine.device not in known.devices:
        allowed = f"auto or, for vLLM {version}, {', '.join(known.devices)}"
        check.refuse(["vllm_engine", "device"], p.shown(engine.device), allowed)
    if engine.install == "source" and "cpu" not in known.devices:
        allowed = f"auto or wheel: vLLM {version} is not built for CPU"
        check.refuse(["vllm_engine", "install"], "'source'", allowed)
    if engine.install == "source" and engine.device == "gpu":
        check.refuse(["vllm_engine", "install"], "'source'", "auto or wheel, as device is gpu")
    flaws = [name for floor in versions.flaws(version) if floor.refused for name in floor.ids]
    if flaws and not engine.accept_vulnerable:
        floor = max((f.fixed_in for f in versions.flaws(version) if f.refused), key=Version)
        allowed = (
            f"{floor} or newer, or accept_vulnerable: true with {version}, "
            f"which carries {', '.join(flaws)}"
        )
        check.refuse(["vllm_engine", "version"], p.shown(version), allowed)


def _sources(check: _Check, sources: Sources) -> None:
    profiles = check.data.mirrors.profiles
    _onednn(check, sources)
    profile = sources.profile or check.data.mirrors.default_profile
    if profile != "custom" and profile not in profiles:
        allowed = p.suggestion(profile, [*profiles, "custom"])
        check.refuse(["vllm_sources", "profile"], p.shown(profile), allowed)
    installer = sources.miniconda
    pinned = check.data.versions.miniconda
    here = ["vllm_sources", "miniconda"]
    if installer.version not in {None, *pinned} and installer.sha256 is None:
        allowed = f"a pinned version ({', '.join(sorted(pinned))}), or sha256 beside it"
        check.refuse([*here, "version"], p.shown(installer.version), allowed)
    if profile == "custom" and not installer.mirrors:
        check.refuse([*here, "mirrors"], "nothing", "at least one URL, as the profile is custom")
    if profile == "custom" and sources.conda is None:
        check.refuse(["vllm_sources", "conda"], "nothing", "channels, as the profile is custom")
    _terms(check, sources)
    if profile == "custom" and not sources.packages.engine_indexes:
        where = ["vllm_sources", "packages", "engine_indexes"]
        check.refuse(where, "nothing", "at least one URL, as the profile is custom")


def _terms(check: _Check, sources: Sources) -> None:
    """Refuses channels that ask somebody to accept terms of service: nobody is there to do so."""
    conda = sources.conda
    named = {} if conda is None else {"default_channels": conda.default_channels}
    named |= {} if conda is None else {"custom_channels": list(conda.custom_channels.values())}
    for word, urls in named.items():
        for url in urls:
            if re.match(r"https?://repo\.anaconda\.(com|cloud)(/|$)", url):
                allowed = (
                    "a mirror of it, or conda-forge: this one stops until its terms are accepted"
                )
                check.refuse(["vllm_sources", "conda", word], p.shown(url), allowed)


def _onednn(check: _Check, sources: Sources) -> None:
    given, where = sources.onednn, ["vllm_sources", "onednn"]
    if given.archive is not None and given.urls:
        check.refuse(where, "archive and urls", "one of the two")
    if given.urls and given.sha256 is None:
        check.refuse([*where, "sha256"], "nothing", "the archive's sha256, as it is downloaded")
    if given.archive is not None and not Path(given.archive).expanduser().is_file():
        check.refuse([*where, "archive"], given.archive, "a readable file on the controller")


def _gateway(check: _Check, gateway: Gateway) -> None:
    if gateway.api_key is not None and gateway.api_key_file is not None:
        check.refuse(["vllm_gateway"], "api_key and api_key_file", "one of the two, or neither")
    key = gateway.api_key
    # A vault whose password is not at hand leaves an empty value: there is nothing to look at.
    if (
        key is not None
        and key.get_secret_value()
        and not KEY_PATTERN.fullmatch(key.get_secret_value())
    ):
        allowed = "16 to 256 characters of A-Z a-z 0-9 . _ ~ + / = -"
        check.refuse(["vllm_gateway", "api_key"], _HIDDEN, allowed)
    if gateway.api_key_file is not None:
        _key_file(check, ["vllm_gateway", "api_key_file"], gateway.api_key_file)


def _key_file(check: _Check, where: Sequence[str | int], given: str) -> None:
    """Refuses a file on the controller that holds no key, or that others can read."""
    path = Path(given).expanduser()
    allowed = "one line of 16 to 256 characters of A-Z a-z 0-9 . _ ~ + / = - in it"
    content = _secret_file(check, where, path, "key")
    if content is not None and not KEY_PATTERN.fullmatch(content):
        check.refuse(where, str(path), allowed)


def _secret_file(check: _Check, where: Sequence[str | int], path: Path, kind: str) -> str | None:
    """The content of a file with a secret; None, and its error noted, where it cannot be read."""
    try:
        mode = path.stat().st_mode
        content = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        check.refuse(
            where, f"{path} ({reason})", f"a readable file on the controller with the {kind}"
        )
        return None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        given = f"{path} with mode {stat.S_IMODE(mode):04o}"
        check.refuse(where, given, f"a file that others cannot read: chmod 600 {path}")
    return content


def _webui(check: _Check) -> Any:
    """The web UI's words, as far as one host can be asked."""
    webui: Webui | None = check.parse(Webui, ["vllm_webui"], check.variables.get("vllm_webui", {}))
    if webui is None:
        return None
    for index, login in enumerate(webui.logins):
        _login(check, ["vllm_webui", "logins", index], login)
    users = [one.user for one in webui.logins]
    for index, user in enumerate(users):
        if user in users[:index]:
            where: list[str | int] = ["vllm_webui", "logins", index, "user"]
            check.refuse(where, p.shown(user), "a user of its own: the name is there twice")
    _entry(check, webui)
    return webui


def _entry(check: _Check, webui: Webui) -> None:
    """Refuses a page that a network can reach and anybody can use, unless that is said."""
    if webui.logins or webui.open:
        return
    remedy = "logins: [{user: ..., password: !vault ...}], or open: true where everybody may use it"
    far = [one for one in webui.listen if not ip_address(one).is_loopback]
    if far:
        check.refuse(["vllm_webui", "listen"], ", ".join(far), f"a loopback address; else {remedy}")
    if webui.share is not None:
        check.refuse(["vllm_webui", "share"], "a public link to a page without logins", remedy)


def _login(check: _Check, where: list[str | int], login: Login) -> None:
    if (login.password is None) == (login.password_file is None):
        both = "password and password_file" if login.password else "neither"
        check.refuse(where, both, "one of password (out of a vault) and password_file")
        return
    if login.password is not None:
        value: str | None = login.password.get_secret_value()
        where = [*where, "password"]
    else:
        where = [*where, "password_file"]
        path = Path(str(login.password_file)).expanduser()
        value = _secret_file(check, where, path, "password")
    # A vault whose password is not at hand leaves an empty value: there is nothing to look at.
    if value and not SHORTEST_PASSWORD <= len(value) <= LONGEST_PASSWORD:
        allowed = f"a password of {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
        check.refuse(where, _HIDDEN, allowed)


def _secrets(check: _Check) -> None:
    """Refuses secrets in clear text; nothing of them is shown."""
    gateway = check.variables.get("vllm_gateway")
    if isinstance(gateway, Mapping) and gateway.get("api_key") is not None:
        _sealed(check, ["vllm_gateway", "api_key"], "api_key_file, ")
    for token in _tokens(check.variables.get("vllm_models")):
        _sealed(check, token, "token_file, ")
    webui = check.variables.get("vllm_webui")
    logins = webui.get("logins") if isinstance(webui, Mapping) else None
    for index, login in enumerate(logins if isinstance(logins, list) else []):
        if isinstance(login, Mapping) and login.get("password") is not None:
            _sealed(check, ["vllm_webui", "logins", index, "password"], "password_file, ")
    instances = check.variables.get("vllm_instances")
    for index, value in enumerate(instances if isinstance(instances, list) else []):
        for word in SECRET_OF:
            said = value.get(word) if isinstance(value, Mapping) else None
            for name in said if isinstance(said, Mapping) else ():
                path: list[str | int] = ["vllm_instances", index, word, str(name)]
                refused = any(one.variable == p.dotted(path) for one in check.problems)
                if is_secret(path) and not refused:
                    _sealed(check, path, "")


def _tokens(models: Any) -> list[list[str | int]]:
    """The paths at which an inventory gives a token, as it was written."""
    return [
        ["vllm_models", str(name), "sources", index, "token"]
        for name, model in (models.items() if isinstance(models, Mapping) else ())
        for index, source in enumerate(_sources_of(model))
        if isinstance(source, Mapping) and source.get("token") is not None
    ]


def _sources_of(model: Any) -> list[Any]:
    sources = model.get("sources") if isinstance(model, Mapping) else None
    return sources if isinstance(sources, list) else []


def _sealed(check: _Check, path: Sequence[str | int], other: str) -> None:
    if p.dotted(path) not in check.sealed:
        allowed = f"{other}a !vault value or a reference to one (ansible-vault encrypt_string)"
        check.refuse(path, "a secret in clear text (not shown)", allowed)


def _urls(check: _Check) -> None:
    for name in ("vllm_sources", "vllm_models", "vllm_instances", "vllm_gateway", "vllm_engine",
                 "vllm_webui"):  # fmt: skip
        _walk_urls(check, [name], check.variables.get(name))


def _walk_urls(check: _Check, path: list[str | int], value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _walk_urls(check, [*path, str(key)], inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _walk_urls(check, [*path, index], inner)
    elif isinstance(value, str) and "://" in value and _has_password(value):
        allowed = "a URL without a password (credentials belong in a vault or in ~/.netrc)"
        given = "a URL with a password (not shown)" if is_secret(path) else p.shown(value)
        check.refuse(path, given, allowed)


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.password is not None or (parts.username is not None and parts.scheme != "ssh")
