#!/usr/bin/env bash
# CE, CE+SCL, CAPCORT and ACL on the same samples: accuracies with paired differences
# against CE, what each does to representations, and curves over flipped labels.
#
# Usage:  ENCODER=encoders/roberta.large scripts/compare.sh [OPTION...]
#         the options go to `fairseq-scl run`; started again, it goes on:
#           --only flipped=0              the comparison without flipped labels
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders), RESULTS (records, tables, a page with the curves) and
#         its analysis.md, what the encoder is like before fine-tuning.
# Hardware and cost: GPUs of 16 GB, all that there are or CUDA_VISIBLE_DEVICES=0,1; Slurm
#         as docs/slurm.md. 160 runs for each share of flipped labels,
#         640 in all. Measured on CPU cores: docs/results.md.
# Expected: nothing is published for this setting; docs/results.md has what we found.
#
# Settings: ENCODER   encoder folder, as table4.sh
#           DATA_BIN  where data folders go (default: data-bin/compare)
#           RESULTS   where results go (default: outputs/compare)
#           GLUE, PREPARE   as table4.sh
set -euo pipefail
ENCODER=${ENCODER:?name an encoder folder}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin/compare}
RESULTS=${RESULTS:-outputs/compare}
read -ra prepare <<<"${PREPARE:-}"

TASKS=SST-2 SIZES=100 "$(dirname "$0")/prepare_glue.sh" \
  --flip-labels 0 0.1 0.2 0.3 ${prepare[@]+"${prepare[@]}"}
fairseq-scl analyze --data "$DATA_BIN/SST-2/n100-sample0" --model "before=$ENCODER" \
  --to "$RESULTS/analysis.md"
fairseq-scl run compare --data "$DATA_BIN" --model "$ENCODER" \
  --results "$RESULTS" "$@"
