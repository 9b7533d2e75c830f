"""Take from a host what its receipt lists, and nothing else."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import sync_directory
from ansible.module_utils.vllm_lines import BLOCK, SHELLS, is_ours, start_files
from ansible.module_utils.vllm_pip import SUFFIX, merge, ours, parse, tidy
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_receipt import key_path, read_receipt
from ansible.module_utils.vllm_records import members, user_record
from ansible.module_utils.vllm_release import MARKER
from ansible.module_utils.vllm_seen import manifest_of
from ansible.module_utils.vllm_units import fragment, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NGINX = "nginx.service"
# Where sites of others are: what is left there decides whether nginx goes on.
SITES = ("/etc/nginx/conf.d/*.conf", "/etc/nginx/sites-enabled/*")
ASIDE = "set-aside"
# Seconds; an engine gives its last answers first.
STOPPING = 180.0
SHOWN = 5


class Removal:
    """The removal of one receipt's things from a host.

    Attributes:
        removed: what was (or would be) removed or given back, in words.
        kept: what stays, each with what and why.
    """

    def __init__(self, params: dict[str, Any], receipt: dict[str, Any], *, check: bool) -> None:
        """Prepare; nothing is touched yet.

        Args:
            params: receipt, others, models and before, as the module `removal` takes them.
            receipt: what the first one says.
            check: whether nothing may be touched at all.
        """
        self.params, self.receipt, self.check = params, receipt, check
        self.path = Path(params["receipt"])
        read = [read_receipt(Path(one))[0] for one in params["others"]]
        self.others = [one for one in read if one]
        self.before: dict[str, Any] = receipt.get("before") or {}
        self.removed: list[str] = []
        self.kept: list[dict[str, str]] = []
        self.files = {one["path"] for one in self.list_of("files")}

    def list_of(self, kind: str) -> list[Any]:
        """Return what the receipt lists of a kind."""
        found: list[Any] = self.receipt.get(kind) or []
        return found

    def shared(self, kind: str, name: str) -> bool:
        """Say whether another receipt of the host lists something too."""
        return any(
            name == (one if isinstance(one, str) else one.get("path", one.get("name")))
            for other in self.others
            for one in other.get(kind) or []
        )

    def keep(self, what: str, why: str) -> None:
        """Tell that something stays."""
        self.kept.append({"what": what, "why": why})

    def do(self, words: str, work: Callable[[], Any]) -> None:
        """Do something unless nothing may be touched, and tell it."""
        if not self.check:
            work()
        self.removed.append(words)

    # -- all of it, in the order in which it can be interrupted and begun again ----------------

    def carry_out(self) -> None:
        """Remove everything; the receipt goes last.

        Raises:
            HostError: a service cannot be stopped, or a user cannot be removed.
        """
        self.stop_units()
        self.remove_files()
        self.give_back()
        self.leave_nginx()
        self.remove_lines()
        self.remove_accounts()
        for tree in self.list_of("trees"):
            self.remove_tree(Path(tree["path"]), tree["kind"])
        self.forget_environments()
        self.remove_directories()
        self.remove_receipt()

    # -- services ------------------------------------------------------------------------------

    def stop_units(self) -> None:
        """Stop and disable the units that are made from our files, also unlisted instances."""
        mine = [name for name in self.list_of("units") if fragment(name, self.files)]
        templates = [Path(p).name for p in self.files if re.search(r"@\.service$", p)]
        mine += [name for name in instances(templates) if name not in mine]
        for name, state in show(mine).items():
            there = state.get("ActiveState") not in ("inactive", "", None)
            if there or state.get("UnitFileState") == "enabled":
                self.do(f"unit {name}", partial(stop, name))

    def leave_nginx(self) -> None:
        """Let nginx go on where it serves others, and end where it was not here before us."""
        if NGINX not in self.list_of("units") or not Path("/usr/sbin/nginx").exists():
            return
        state = show([NGINX])[NGINX]
        running = state.get("ActiveState") == "active"
        was = self.before.get(f"unit {NGINX}") or {}
        ours_too = {one["path"] for other in self.others for one in other.get("files") or []}
        sites = [one for one in foreign_sites() if one not in self.files | ours_too]
        needed = self.shared("units", NGINX)
        if needed or was.get("active") or (sites and running):
            if running and not self.check:
                reload_nginx()
            why = f"it serves {', '.join(sites[:SHOWN])}" if sites else "it ran before"
            self.keep(NGINX, "another part needs it" if needed else why)
        elif running:
            self.do(f"unit {NGINX} (stopped)", lambda: stop(NGINX, disable=False))
        if not (needed or was.get("enabled") or sites) and state["UnitFileState"] == "enabled":
            self.do(f"unit {NGINX} (disabled)", lambda: stop(NGINX))

    # -- files ---------------------------------------------------------------------------------

    def remove_files(self) -> None:
        """Remove files and links, but for those of others."""
        with_lines = {one["subject"] for one in self.list_of("lines") if one["kind"] == "pip"}
        in_conda = [t["path"] for t in self.list_of("trees") if t["kind"] in ("conda", "store")]
        for kind in ("files", "links"):
            for one in self.list_of(kind):
                path = Path(one["path"])
                if one["path"] in with_lines or not os.path.lexists(path):
                    continue
                # With their tree, or with none.
                if kind == "files" and any(inside(path, tree) for tree in in_conda):
                    continue
                self.remove_entry(kind, path)
        if not self.check and any(".service" in path for path in self.files):
            run(["systemctl", "daemon-reload"], timeout=90)

    def remove_entry(self, kind: str, path: Path) -> None:
        """Remove one file or link."""
        if self.shared(kind, str(path)):
            return
        if self.before.get(str(path)):
            self.keep(str(path), "it was here before us")
        elif path.is_dir() and not path.is_symlink():
            self.keep(str(path), "it is a directory now, and none of ours")
        else:
            self.do(str(path), path.unlink)

    def give_back(self) -> None:
        """Put back what was switched off."""
        for one in self.list_of("switched_off"):
            path, target = Path(one["path"]), str(self.before.get(one["path"]) or one["target"])
            # nginx came with us, and the page with nginx; else it is given back as it was.
            was = self.before.get(one["path"]) or not self.before.get(f"unit {NGINX}")
            off = not os.path.lexists(path) and Path(path.parent, target).exists()
            if was and off and not self.shared("switched_off", one["path"]):
                self.do(f"{path} (put back)", partial(path.symlink_to, target))

    def remove_lines(self) -> None:
        """Take our lines out of others' files."""
        prefix = next((t["path"] for t in self.list_of("trees") if t["kind"] == "conda"), "")
        for one in self.list_of("lines"):
            if any(one in (other.get("lines") or []) for other in self.others):
                continue
            if one["kind"] == "pip":
                self.restore_pip(Path(one["subject"]))
            elif not self.conda_stays(Path(prefix)):
                for user in users_of(one["subject"]):
                    self.clear_shells(user, Path(prefix) / "bin/conda")

    def restore_pip(self, path: Path) -> None:
        """Take our options out of pip's file, and bring back those that they replaced."""
        if not path.is_file():
            return
        now, backup = path.read_text("utf-8"), path.with_name(f"{path.name}{SUFFIX}")
        rest = tidy(merge(now, {}), {})
        old = backup.read_text("utf-8") if backup.is_file() else ""
        # Nobody has written into it since: it is as it was before our options were put in.
        whole = old and tidy(merge(merge(old, ours(now)), {}), {}) == rest
        if whole:
            self.do(f"{path} (as before)", lambda: backup.replace(path))
            return
        if backup.is_file():
            self.keep(str(backup), f"{path} was changed since; its options before us are here")
        parse(rest, path)
        if not rest:
            self.do(str(path), path.unlink)
        elif rest != now:
            self.do(f"{path} (our options)", lambda: overwrite(path, rest))

    def clear_shells(self, user: pwd.struct_passwd, program: Path) -> None:
        """Take conda's block out of a user's start files, as that user."""
        for file in start_files(user, list(SHELLS)).values():
            with acting_as(user):
                text = read_text(file)
                rest = without_block(text, program)
                if rest == text:
                    continue
                if not rest.strip() and not self.before.get(str(file)):
                    self.do(str(file), file.unlink)
                else:
                    self.do(f"{file} (conda's lines)", partial(overwrite, file, rest))

    # -- users ---------------------------------------------------------------------------------

    def remove_accounts(self) -> None:
        """Remove memberships, users and groups, but for those that were here before us."""
        for one in self.list_of("memberships"):
            user, group = one["user"], one["group"]
            there = user in (members(group) or [])
            if there and not self.before.get(f"member {user} {group}"):
                words = ["gpasswd", "--delete", user, group]
                self.do(f"{user} in group {group}", partial(must, words))
        for kind, there, argv in (
            ("user", user_record, ["userdel"]),
            ("group", members, ["groupdel"]),
        ):
            for name in [one["name"] for one in self.list_of(f"{kind}s")]:
                if there(name) is None or self.shared(f"{kind}s", name):
                    continue
                if self.before.get(f"{kind} {name}"):
                    self.keep(f"{kind} {name}", "it was here before us")
                else:
                    self.do(f"{kind} {name}", partial(removed_account, [*argv, name], name, there))

    # -- trees and directories -----------------------------------------------------------------

    def remove_tree(self, path: Path, kind: str) -> None:
        """Remove what is ours as a whole."""
        if kind == "log":
            for file in sorted(path.parent.glob(f"{path.name}*")):
                self.do(str(file), file.unlink)
            return
        if not os.path.lexists(path) or self.shared("trees", str(path)):
            return
        if self.before.get(str(path)) and kind != "models":
            self.keep(str(path), "it was here before us")
        elif kind == "releases":
            self.remove_releases(path)
        elif kind == "conda" and self.conda_stays(path):
            names = ", ".join(foreign_environments(path)[:SHOWN])
            self.keep(str(path), f"somebody has made environments in it: {names}")
        elif kind in ("models", "store") and not self.params["models"]:
            self.keep(str(path), "models and what was carried here stay unless asked for")
        elif kind == "models":
            self.remove_models(path)
        else:
            self.do(str(path), partial(delete, path))

    def remove_releases(self, path: Path) -> None:
        """Remove the environments that we have made."""
        for child in sorted(path.iterdir()):
            if (child / MARKER).is_file() and not child.is_symlink():
                self.do(str(child), partial(delete, child))
            else:
                self.keep(str(child), "it is no release of ours")

    def remove_models(self, path: Path) -> None:
        """Remove the snapshots that we have made: those with a manifest, and what is begun."""
        for manifest in sorted(path.glob("*/*.json")):
            snapshot = manifest.with_suffix("")
            if "files" not in manifest_of(snapshot):
                continue
            if snapshot.is_dir():
                self.do(str(snapshot), partial(delete, snapshot))
            # Without it the snapshot would be nobody's, so it goes last.
            self.do(str(manifest), manifest.unlink)
        for rest in sorted([*path.glob("*/.*.partial"), *path.glob("*/.*.progress.json")]):
            self.do(str(rest), partial(delete, rest))
        for folder in sorted(one for one in path.iterdir() if one.is_dir()):
            if not self.remaining(folder):
                self.do(str(folder), folder.rmdir)

    def conda_stays(self, prefix: Path) -> bool:
        """Say whether Miniconda is somebody else's as well."""
        return bool(foreign_environments(prefix)) or bool(self.before.get(str(prefix)))

    def forget_environments(self) -> None:
        """Take our environments out of the list that conda keeps in root's home."""
        file = Path(pwd.getpwuid(0).pw_dir) / ".conda/environments.txt"
        lines = read_text(file).splitlines()
        places = [tree["path"] for tree in self.list_of("trees")]
        left = [line for line in lines if not any(inside(Path(line), one) for one in places)]
        gone = [one for one in lines if one not in left and (self.check or not Path(one).exists())]
        if not gone:
            return
        rest = [line for line in lines if line not in gone]
        if rest:
            text = "".join(f"{line}\n" for line in rest)
            self.do(f"{file} (our environments)", partial(overwrite, file, text))
        else:
            self.do(str(file), partial(delete, file, file.parent))

    def remove_directories(self) -> None:
        """Remove the directories that are empty now; of the others it is told what is in them."""
        mine = [one["path"] for one in self.list_of("directories")]
        for path in (Path(one) for one in sorted(mine, key=len, reverse=True)):
            if not path.is_dir() or self.shared("directories", str(path)):
                continue
            if path in (self.path.parent, Path(self.params["before"]).parent):
                continue  # the receipt is in it
            self.remove_directory(path)

    def remaining(self, path: Path) -> list[Path]:
        """Return what is in a directory, or what would be."""
        gone = self.removed if self.check else []
        return [one for one in sorted(path.iterdir()) if str(one) not in gone]

    def remove_directory(self, path: Path) -> None:
        """Remove one directory if nothing is in it; what stays in it is told once."""
        left, told = self.remaining(path), [Path(one["what"]) for one in self.kept]
        if self.before.get(str(path)) or path in told:
            return
        foreign = [one.name for one in left if not any(inside(what, str(one)) for what in told)]
        if not left:
            self.do(str(path), path.rmdir)
        elif foreign:
            names = ", ".join(foreign[:SHOWN])
            self.keep(str(path), f"there is something in it that is not ours: {names}")

    def remove_receipt(self) -> None:
        """Remove the receipt and what belongs to it."""
        aside, before = self.path.parent / ASIDE, Path(self.params["before"])
        if aside.is_dir() and not self.others:
            self.keep(str(aside), "what somebody had changed by hand is kept there")
        if not self.others and before.exists():
            self.do(str(before), before.unlink)
        key = key_path(self.path)
        if key.exists():
            self.do(str(key), key.unlink)
        if self.path.exists():
            self.do(str(self.path), self.path.unlink)
        if not self.check:
            sync_directory(self.path.parent)
        listed = [one["path"] for one in self.list_of("directories")]
        for folder in dict.fromkeys([self.path.parent, before.parent]):
            if (
                str(folder) in listed
                and folder.is_dir()
                and not self.shared("directories", str(folder))
            ):
                self.remove_directory(folder)


def inside(path: Path, tree: str) -> bool:
    """Say whether a path is a tree or lies in it."""
    return Path(tree) == path or Path(tree) in path.parents


def instances(templates: list[str]) -> list[str]:
    """Return the units that systemd knows of templates of ours."""
    if not templates:
        return []
    patterns = [name.replace("@.", "@*.") for name in templates]
    argv = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--", *patterns]
    lines = [line.split() for line in run(argv, timeout=60).output.splitlines()]
    return [words[0] for words in lines if words]


def stop(unit: str, *, disable: bool = True) -> None:
    """Stop a unit, and disable it.

    Raises:
        HostError: systemd cannot do that.
    """
    must(["systemctl", *(["disable", "--now"] if disable else ["stop"]), "--", unit])
    run(["systemctl", "reset-failed", "--", unit], timeout=30)


def must(argv: list[str]) -> None:
    """Run a program that has to end well.

    Raises:
        HostError: with its last words.
    """
    result = run(argv, timeout=STOPPING)
    if result.status:
        raise HostError(f"{' '.join(argv)} ended with status {result.status}: {result.tail(10)}")


def removed_account(argv: list[str], name: str, there: Callable[[str], Any]) -> None:
    """Remove a user or a group; a user takes the group of his name along.

    Raises:
        HostError: it cannot be removed.
    """
    if there(name) is not None:
        must(argv)


def reload_nginx() -> None:
    """Have nginx serve what is left.

    Raises:
        HostError: it does not accept its configuration.
    """
    must(["nginx", "-t", "-q"])
    must(["systemctl", "reload", NGINX])


def foreign_sites() -> list[str]:
    """Return the sites that nginx has, but for the package's welcome page."""
    found = [path for pattern in SITES for path in Path("/").glob(pattern.lstrip("/"))]
    return sorted(str(path) for path in found if path.name != "default")


def foreign_environments(prefix: Path) -> list[str]:
    """Return the environments that others have made in Miniconda."""
    with contextlib.suppress(OSError):
        children = sorted((prefix / "envs").iterdir())
        return [one.name for one in children if one.is_dir() and not one.is_symlink()]
    return []


def users_of(subject: str) -> list[pwd.struct_passwd]:
    """Return a user, or all of them for C(*); none when there is no such user."""
    with contextlib.suppress(KeyError):
        return pwd.getpwall() if subject == "*" else [pwd.getpwnam(subject)]
    return []


@contextlib.contextmanager
def acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    """Touch files as a user, whose links may point anywhere."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def without_block(text: str, program: Path) -> str:
    """Return a start file without what conda's init of this installation has put into it."""

    def left(found: re.Match[str]) -> str:
        return "" if is_ours(found.group(), program) else found.group()

    # conda puts an empty line before and behind.
    return re.sub(rf"(?:(?<=\n)\n|\A\n)?{BLOCK.pattern}\n?", left, text, flags=BLOCK.flags)


def read_text(path: Path) -> str:
    """Return a file's text; nothing where it cannot be read."""
    try:
        return path.read_text("utf-8", errors="surrogateescape")
    except OSError:
        return ""


def overwrite(path: Path, text: str) -> None:
    """Give a file another text; owner, mode and links stay.

    Raises:
        OSError: it cannot be written.
    """
    real = path.resolve()
    status = real.stat()
    new = real.with_name(f".{real.name}.vllm-ansible")
    new.write_text(text, "utf-8", errors="surrogateescape")
    new.chmod(stat.S_IMODE(status.st_mode))
    if os.geteuid() == 0:
        os.chown(new, status.st_uid, status.st_gid)
    new.replace(real)


def delete(*paths: Path) -> None:
    """Remove files, links and whole directories, in this order.

    Raises:
        OSError: one cannot be removed.
    """
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
