#!/usr/bin/env bash
# Debian packages for the tests that look at what is made as people do: QGIS, and Chromium for the
# report and the viewer; Node.js builds the viewer's page. Without them these tests are skipped;
# everything else comes from pip (make setup).
set -euo pipefail
packages=(python3-qgis chromium fonts-dejavu-core)
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    packages+=(nodejs npm) # other builds of Node.js than Debian's bring npm, and conflict with its
fi
if dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
