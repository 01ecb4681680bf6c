#!/usr/bin/env bash
# Compares CE, CE+SCL, CAPCORT and ACL on the same samples: accuracies with paired
# differences from CE, measures of representations, and curves over flipped labels.
#
# Usage:  ENCODER=roberta.large scripts/compare.sh [OPTION...]
#         options are passed to `fairseq-scl run`; rerun to resume:
#           --only flipped=0              only runs without flipped labels
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       test the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders), RESULTS (records, tables, report.html) and
#         RESULTS/analysis.md (measures of the encoder before fine-tuning).
# Hardware and cost: GPUs with 16 GB: all of them, or CUDA_VISIBLE_DEVICES=0,1; for
#         Slurm see docs/slurm.md. 160 runs per share of flipped labels, 640 in total.
#         For timings on CPU cores see docs/results.md.
# Expected: no results are published for this setting; for ours see docs/results.md.
#
# Settings: ENCODER   name or folder, see table4.sh
#           DATA_BIN  data folders (default: data-bin/compare)
#           RESULTS   results folder (default: outputs/compare, or with --smoke
#                     outputs/compare-smoke)
#           GLUE, PREPARE   see table4.sh
set -euo pipefail
ENCODER=${ENCODER:?set it to an encoder folder or name}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin/compare}
[[ " $* " != *" --smoke "* ]] || RESULTS=${RESULTS:-outputs/compare-smoke}
RESULTS=${RESULTS:-outputs/compare}
read -ra prepare <<<"${PREPARE:-}"

TASKS=SST-2 SIZES=100 "$(dirname "$0")/prepare_glue.sh" \
  --flip-labels 0 0.1 0.2 0.3 ${prepare[@]+"${prepare[@]}"}
fairseq-scl analyze --data "$DATA_BIN/SST-2/n100-sample0" --model "before=$ENCODER" \
  --pooling cls --to "$RESULTS/analysis.md" # as the runs of the table
fairseq-scl run compare --data "$DATA_BIN" --model "$ENCODER" \
  --results "$RESULTS" "$@"
