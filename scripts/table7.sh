#!/usr/bin/env bash
# Table 7 of Gunel et al. (2021): SST-2 models are fine-tuned further on 20 examples per
# class of Amazon-2 and Yelp-2. Each loss starts from the SST-2 model of the same loss.
#
# Usage:  ENCODER=roberta.large scripts/table7.sh [OPTION...]
#         options are passed to `fairseq-scl run table7`, see table4.sh; of these the
#         SST-2 runs get --smoke alone, and --dry-run does not keep them from training
# Writes: outputs/table2-sst2 (the SST-2 runs if they are missing), outputs/models (the
#         best model of each loss), DATA_BIN and outputs/table7; with --smoke to others.
# Hardware and cost: GPUs with 16 GB, see table4.sh. 20 full SST-2 runs that keep their
#         checkpoints (1.4 GB each for RoBERTa-Large; resuming needs them), then 500
#         short runs, 40 with one point of the grid.
# Expected: the paper's Amazon-2: 87.4 ± 6.4 (CE), 90.3 ± 0.6 (CE+SCL).
#
# Settings: ENCODER, GLUE, DATA_BIN, PREPARE: see table4.sh; REVIEWS, folder of the reviews;
#           SST2, options of `fairseq-scl run table2` (default: λ 0.9, τ 0.3)
set -euo pipefail
ENCODER=${ENCODER:?set it to an encoder folder or name}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
REVIEWS=${REVIEWS:-data-bin/reviews}
read -ra prepare <<<"${PREPARE:-}"
read -ra sst2 <<<"${SST2:---only task=SST-2,lambda=0.9,tau=0.3}"
scripts=$(dirname "$0") smoke=
[[ " $* " != *" --smoke "* ]] || smoke=-smoke

TASKS=SST-2 "$scripts/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
TASKS="Amazon-2 Yelp-2" SIZES=40 GLUE=$REVIEWS \
  "$scripts/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
fairseq-scl run table2 --data "$DATA_BIN" --model "$ENCODER" --keep-checkpoints \
  --results "outputs/table2-sst2$smoke" ${smoke:+--smoke} ${sst2[@]+"${sst2[@]}"}
models=()
for loss in CE CE+SCL; do
  model=outputs/models$smoke/SST-2-$loss
  fairseq-scl export --results "outputs/table2-sst2$smoke" --only "loss=$loss" --to "$model"
  models+=(--model "$loss=$model")
done
fairseq-scl run table7 --data "$DATA_BIN" "${models[@]}" "$@"
