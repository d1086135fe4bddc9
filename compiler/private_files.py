"""Knows which files can be trusted: those that nobody else may write. Makes folders and files that are so."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o700, 0o600
_OTHERS_WRITE, _OTHERS = 0o022, 0o077


def make_private_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, for this user alone. Raises OSError."""
    missing = [folder] if not folder.is_dir() else []
    while missing and not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        try:
            path.mkdir(FOLDER_MODE)
        except FileExistsError:
            if not path.is_dir():
                raise NotADirectoryError(20, "Not a directory", str(path)) from None


def make_private_file(path: Path) -> None:
    """Make an empty file for this user alone, unless there is one. Raises OSError."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
    except FileExistsError:
        return


def distrust(*paths: Path) -> str:
    """Why what lies at `paths` may have been written by somebody else, and what to do about it; "" if it was not.

    A path with nothing there is fine.
    """
    for path in paths:
        try:
            found = _status(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as problem:
            return f"{path} cannot be looked at ({problem.strerror})"
        if reason := _reason(path, found, os.geteuid()):
            return reason
    return ""


def _status(path: Path) -> os.stat_result:
    return path.stat()


def _reason(path: Path, found: os.stat_result, user: int) -> str:
    # The superuser may write anywhere anyway, and fills images that others run.
    if found.st_uid not in (user, 0):
        return f"{path} belongs to user {found.st_uid}, not to this user, {user}; set ATTIR_CACHE_DIR"
    if found.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        return (
            f"others may write to {path} (its mode is {mode:04o}); run: chmod go-rwx '{path}', or set ATTIR_CACHE_DIR"
        )
    return ""


def narrow(path: Path) -> None:
    """Take from others the permission to read what is ours and only we could write; nothing happens if that fails."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)
    except OSError:
        return
