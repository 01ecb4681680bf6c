#!/usr/bin/env bash
# Table 5 of Gunel et al. (2021): 100 labeled examples, each with three back-translations
# sampled at temperature T; and the distance of these from their sources.
#
# Usage:  ENCODER=roberta.large FORWARD=mt/en-de BACKWARD=mt/de-en \
#           scripts/table5.sh [OPTION...]
#         options are passed to `fairseq-scl run`; rerun to resume:
#           --only 'temperature=original|0.3,lambda=0.9,tau=0.3'   two columns, one point
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       test the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders), AUGMENTED (back-translations) and outputs/table5.
# Hardware and cost: GPUs with 16 GB: all of them, or CUDA_VISIBLE_DEVICES=0,1; for
#         Slurm see docs/slurm.md. 3,750 runs with the grid, 300 with one point.
# Expected: the paper's SST-2 at T = 0.3: 92.0 ± 1.3 (CE), 92.6 ± 0.9 (CE+SCL).
#
# Settings: ENCODER             name or folder, see table4.sh
#           FORWARD, BACKWARD   translation models, see backtranslate.sh
#           AUGMENTED           back-translations (default: data-bin/augmented)
#           TASKS               tasks to run (default: SST-2 QNLI MNLI)
#           GLUE, DATA_BIN, PREPARE   see table4.sh; SAMPLES see backtranslate.sh
set -euo pipefail
ENCODER=${ENCODER:?set it to an encoder folder or name}
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
