#!/usr/bin/env bash
# Table 6 of Gunel et al. (2021): sentences beside their back-translations at T = 0.3 and
# T = 0.9; and the noise at each temperature, which the paper does not measure.
#
# Usage:  ENCODER=encoders/roberta.large FORWARD=mt/en-de BACKWARD=mt/de-en \
#           scripts/table6.sh [OPTION...]
#         the options go to `fairseq-scl noise`:
#           --examples 5                  more sentences
# Writes: DATA_BIN and AUGMENTED, where they are missing, and outputs/table6 (Markdown,
#         CSV, a page).
# Cost:   seconds, after the back-translation (backtranslate.sh).
#
# Settings: as table5.sh, without PREPARE's effect on what is there
set -euo pipefail
ENCODER=${ENCODER:?name an encoder folder}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
export TASKS=${TASKS:-SST-2 QNLI MNLI} SIZES=${SIZES:-100}
export AUGMENTED=${AUGMENTED:-data-bin/augmented}
read -ra prepare <<<"${PREPARE:-}"

"$(dirname "$0")/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
"$(dirname "$0")/backtranslate.sh"
fairseq-scl noise "$AUGMENTED" --to outputs/table6 --html "$@"
