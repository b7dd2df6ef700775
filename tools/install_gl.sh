#!/usr/bin/env bash
# Videos are drawn in software, which needs OSMesa or EGL. Installs one where apt may be used; otherwise says how.
# Never fails: without a GL library everything but videos works.
python=${1:-python3}

# macOS brings its own.
[ "$(uname)" = Darwin ] && exit 0

have_gl() {
    "$python" - <<'PY'
import ctypes, sys
for name in ("libOSMesa.so.8", "libOSMesa.so", "libEGL.so.1"):
    try:
        ctypes.CDLL(name)
    except OSError:
        continue
    sys.exit(0)
sys.exit(1)
PY
}

have_gl && exit 0
as_root=""
if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="none"; fi
fi
if command -v apt-get >/dev/null && [ "$as_root" != none ]; then
    echo "installing a software GL library for videos ..."
    export DEBIAN_FRONTEND=noninteractive
    { $as_root apt-get update -qq && { $as_root apt-get install -y -qq libosmesa6 \
        || $as_root apt-get install -y -qq libegl1 libgl1-mesa-dri; }; } >/dev/null 2>&1
fi
have_gl || echo "No OSMesa or EGL library: everything but videos will work. For videos run:
  sudo apt-get install libosmesa6    (or: libegl1 libgl1-mesa-dri)"
exit 0
