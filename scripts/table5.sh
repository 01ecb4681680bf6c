#!/usr/bin/env bash
# Table 5 of Gunel et al. (2021): 100 labelled examples and their back-translations at
# temperature T, three of each; and how far these are from their sources.
#
# Usage:  ENCODER=encoders/roberta.large FORWARD=mt/en-de BACKWARD=mt/de-en \
#           scripts/table5.sh [OPTION...]
#         the options go to `fairseq-scl run`; started again, it goes on:
#           --only 'temperature=original|0.3,lambda=0.9,tau=0.3'   two columns, no grid
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders), AUGMENTED (back-translations) and outputs/table5.
# Hardware and cost: GPUs of 16 GB, all that there are or CUDA_VISIBLE_DEVICES=0,1; Slurm
#         as docs/slurm.md. 3,750 runs with the grid, 300 with one point.
# Expected: the paper's SST-2 at T = 0.3: 92.0 ± 1.3 (CE), 92.6 ± 0.9 (CE+SCL).
#
# Settings: ENCODER             encoder folder, as table4.sh
#           FORWARD, BACKWARD   translation models and more, as backtranslate.sh
#           AUGMENTED           where back-translations go (default: data-bin/augmented)
#           TASKS               which of its tasks (default: SST-2 QNLI MNLI)
#           GLUE, DATA_BIN, PREPARE   as table4.sh; SAMPLES as backtranslate.sh
set -euo pipefail
ENCODER=${ENCODER:?name an encoder folder}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
export TASKS=${TASKS:-SST-2 QNLI MNLI} SIZES=${SIZES:-100}
export AUGMENTED=${AUGMENTED:-data-bin/augmented}
[[ " $* " != *" --smoke "* ]] || export SAMPLES=${SAMPLES:-3} # as many as it repeats
read -ra prepare <<<"${PREPARE:-}"
read -ra tasks <<<"$TASKS"

"$(dirname "$0")/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
"$(dirname "$0")/backtranslate.sh"
for task in "${tasks[@]}"; do
  fairseq-scl prepare --sample "$DATA_BIN/$task" --augmented "$AUGMENTED/$task" \
    --encoder "$ENCODER" --to "$DATA_BIN/$task"
done
fairseq-scl noise "$AUGMENTED" --to outputs/table5 --html --encoder "$ENCODER"
fairseq-scl run table5 --data "$DATA_BIN" --model "$ENCODER" \
  --only "task=${TASKS// /|}" "$@"
