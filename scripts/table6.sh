#!/usr/bin/env bash
# Table 6 of Gunel et al. (2021): sentences next to their back-translations at T = 0.3 and
# T = 0.9. Also measures the noise at each temperature, which the paper does not.
#
# Usage:  ENCODER=roberta.large FORWARD=mt/en-de BACKWARD=mt/de-en \
#           scripts/table6.sh [OPTION...]
#         options are passed to `fairseq-scl noise`:
#           --examples 5                  show more sentences
# Writes: DATA_BIN and AUGMENTED if they are missing, and outputs/table6 (noise.md, noise.csv,
#         noise.html).
# Cost:   seconds, plus back-translation (see backtranslate.sh).
#
# Settings: see table5.sh; PREPARE does not affect existing folders
set -euo pipefail
ENCODER=${ENCODER:?set it to an encoder folder or name}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
export TASKS=${TASKS:-SST-2 QNLI MNLI} SIZES=${SIZES:-100}
export AUGMENTED=${AUGMENTED:-data-bin/augmented}
read -ra prepare <<<"${PREPARE:-}"

"$(dirname "$0")/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
"$(dirname "$0")/backtranslate.sh"
fairseq-scl noise "$AUGMENTED" --to outputs/table6 --html "$@"
