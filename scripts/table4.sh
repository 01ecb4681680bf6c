#!/usr/bin/env bash
# Table 4 of Gunel et al. (2021): 20, 100 and 1,000 labeled examples.
#
# Usage:  ENCODER=roberta.large scripts/table4.sh [OPTION...]
#         options are passed to `fairseq-scl run`; rerun to resume:
#           --only 'lambda=0.9,tau=0.3'   one point of the grid instead of 24
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       test the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders) and outputs/table4 (records, tables, report.html).
# Hardware and cost: GPUs with 16 GB: all of them, or CUDA_VISIBLE_DEVICES=0,1; for
#         Slurm see docs/slurm.md. 2,250 runs with the grid, 180 with one point.
#         For timings on CPU cores see docs/results.md.
# Expected: the paper's SST-2 at N = 20: 85.9 ± 2.1 (CE), 88.1 ± 3.3 (CE+SCL).
#
# Settings: ENCODER   name (roberta.large …) or encoder folder, see docs/encoders.md
#           TASKS     tasks to run         (default: SST-2 QNLI MNLI)
#           GLUE, DATA_BIN, SIZES    see prepare_glue.sh
#           PREPARE   options of `fairseq-scl prepare`, such as --partial for files
#                     with missing rows
set -euo pipefail
ENCODER=${ENCODER:?set it to an encoder folder or name}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
export TASKS=${TASKS:-SST-2 QNLI MNLI}
read -ra prepare <<<"${PREPARE:-}"

"$(dirname "$0")/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
fairseq-scl run table4 --data "$DATA_BIN" --model "$ENCODER" \
  --only "task=${TASKS// /|}" "$@"
