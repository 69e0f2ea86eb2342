#!/usr/bin/env bash
# The real peers that the integration tests talk to. Does nothing when all are there; installs what is missing
# as root on Debian or Ubuntu; says what is missing otherwise, and fails then only with REQUIRE_PEERS=1.
# usage: install_peers.sh VENV_FOLDER PYTHON
set -euo pipefail

venv=${1:?usage: install_peers.sh VENV_FOLDER PYTHON}
python=${2:?usage: install_peers.sh VENV_FOLDER PYTHON}
dcmqi=dcmqi==1.5.7

# package:a program it brings
packages=(orthanc:Orthanc dcmtk:storescu dicom3tools:dciodvfy iproute2:ip)
dicomweb_plugin=libOrthancDicomWeb.so

missing_packages() {
  local pair
  for pair in "${packages[@]}"; do
    command -v "${pair#*:}" >/dev/null || printf '%s ' "${pair%%:*}"
  done
  compgen -G "/usr/*/orthanc/plugins/$dicomweb_plugin" >/dev/null || printf 'orthanc-dicomweb '
}

install_packages() { # the services that packages want to start stay off: tests start their own
  export DEBIAN_FRONTEND=noninteractive
  echo "peers: installing $*"
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
    systemctl disable --now --quiet orthanc 2>/dev/null || true
  fi
}

missing=$(missing_packages)
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  # shellcheck disable=SC2086  # a list of package names
  install_packages $missing
  missing=$(missing_packages)
fi
if [ -n "$missing" ]; then
  echo "peers: not here: ${missing% }; their tests skip. As root on Debian or Ubuntu: apt-get install ${missing% }" >&2
  [ "${REQUIRE_PEERS:-0}" != 1 ] || exit 1
fi

if [ ! -x "$venv/bin/segimage2itkimage" ]; then
  echo "peers: installing $dcmqi into $(basename "$venv")"
  if ! { "$python" -m venv --clear "$venv" && "$venv/bin/python" -m pip install -q --disable-pip-version-check "$dcmqi"; }; then
    echo "peers: $dcmqi could not be installed; its tests skip" >&2
    [ "${REQUIRE_PEERS:-0}" != 1 ] || exit 1
  fi
fi
