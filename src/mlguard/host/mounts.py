"""Does a folder lie on another machine?"""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\w*|ceph|glusterfs|lustre|afs|gpfs|beegfs|ocfs2|gfs2?"
    r"|fuse\.(sshfs|s3fs|gcsfuse|glusterfs|ceph\S*|rclone|blobfuse\d?|davfs\d?)"
)


def is_remote(folder: Path) -> bool:
    """Say whether a folder is on a network file system; False where the platform does not tell."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace")
        kind = _kind(folder.resolve(), mounts)
    except OSError:
        return False
    return _REMOTE.fullmatch(kind) is not None


def _kind(folder: Path, mounts: str) -> str:
    """Find the file system that holds a folder: of the mounts above it the deepest, the latest."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(_unescaped(fields[4]))
        depth = len(point.parts)
        if depth >= best and folder.is_relative_to(point):
            best, kind = depth, after.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
