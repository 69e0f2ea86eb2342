#!/usr/bin/env bash
# Make what the tests compare the node's model importers with: nnU-Net's and MONAI's own output on small cases.
# usage: make.sh NODE_VENV ORACLES_FOLDER   (run again it makes only what these scripts would make differently by now)
set -euo pipefail

node=${1:?usage: make.sh NODE_VENV ORACLES_FOLDER}
oracles=${2:?usage: make.sh NODE_VENV ORACLES_FOLDER}
here=$(dirname "$0")
packages() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# The node's packages lend the oracles torch, numpy, scipy, SimpleITK and MONAI; the oracles' own come before them.
install() {
  rm -rf "$oracles/bin" "$oracles/lib" "$oracles/.installed"
  "$node/bin/python" -m venv --without-pip "$oracles" &&
    packages "$node" >"$(packages "$oracles")/node.pth" &&
    "$node/bin/python" -m pip --python "$oracles/bin/python" install --disable-pip-version-check --quiet --retries 2 \
      --no-deps --no-build-isolation -r "$here/requirements.txt" 2>"$oracles/install.log"
}

wanted=$(cat "$here/requirements.txt" && packages "$node" && "$node/bin/python" --version)
if [ "$wanted" != "$(cat "$oracles/.installed" 2>/dev/null)" ]; then
  echo "make: installing nnunetv2 for the oracles into $oracles"
  if ! install; then
    echo "make: nnunetv2 could not be installed for the oracles: pip needs the network ($oracles/install.log)" >&2
    exit 1
  fi
  echo "$wanted" >"$oracles/.installed"
fi

digest=$("$oracles/bin/python" "$here/case_folder.py")
if [ "$digest" = "$(cat "$oracles/cases/.complete" 2>/dev/null)" ]; then exit 0; fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"; kill $(jobs -p) 2>/dev/null || true' EXIT
export nnUNet_raw=$scratch/raw nnUNet_preprocessed=$scratch/preprocessed nnUNet_results=$scratch/results
export nnUNet_def_n_proc=1 OMP_NUM_THREADS=1 # sums in one order, the same every time
export MPLCONFIGDIR=$scratch

mkdir -p "$oracles/cases"
"$oracles/bin/python" "$here/make_monai.py" "$oracles/cases" &
monai=$!
"$oracles/bin/python" "$here/make_nnunet.py" "$oracles/cases"
wait "$monai"
echo "$digest" >"$oracles/cases/.complete"
