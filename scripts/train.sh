#!/usr/bin/env bash
# Trains one model: fairseq-train with (1 - λ)·CE + λ·SCL and fairseq's GLUE recipe.
#
# Usage:  ENCODER=roberta.large DATA=data-bin/SST-2/n100-sample0 \
#           scripts/train.sh [OPTION of fairseq-train...]
# Writes: SAVE_DIR (checkpoints, metrics.jsonl). Rerun to resume from the last checkpoint.
# Cost:   one GPU with 16 GB, or a laptop for small encoders with --cpu. To use 8 GPUs with
#         8 times the batch, add --distributed-world-size 8.
#
# Settings: ENCODER, name or folder; DATA, folder; ARCH (roberta_large); UPDATES (200);
#           LR (1e-5); BATCH (16); LAMBDA (0.9); TAU (0.3); CLASSES (2); SEED (0);
#           PRECISION (fp32; or tf32, bf16, fp16); SAVE_DIR (checkpoints)
set -euo pipefail
DATA=${DATA:?set it to a data folder}
ENCODER=$(fairseq-scl download --encoder "${ENCODER:?set it to an encoder folder or name}")
UPDATES=${UPDATES:-200} SAVE_DIR=${SAVE_DIR:-checkpoints}
case ${PRECISION:=fp32} in
fp32) precision=() ;;
tf32 | bf16) precision=("--$PRECISION") ;;
fp16) precision=(--fp16 --fp16-init-scale 4 --threshold-loss-scale 1 --fp16-scale-window 128) ;;
*) echo "train.sh: PRECISION is $PRECISION: fp32, tf32, bf16 or fp16" >&2 && exit 2 ;;
esac
mkdir -p "$SAVE_DIR"
fairseq-train "$DATA" --user-dir "$(fairseq-scl user-dir)" \
  --finetune-from-model "$ENCODER/model.pt" --shorten-method truncate \
  --arch "${ARCH:-roberta_large}" --max-positions 512 \
  --task sentence_prediction_scl --num-classes "${CLASSES:-2}" \
  --metrics-file "$SAVE_DIR/metrics.jsonl" --packed \
  --criterion sentence_prediction_scl \
  --scl-lambda "${LAMBDA:-0.9}" --scl-temperature "${TAU:-0.3}" \
  --dropout 0.1 --attention-dropout 0.1 --weight-decay 0.1 --clip-norm 0 \
  --optimizer adam --adam-betas "(0.9, 0.98)" --adam-eps 1e-06 --seed "${SEED:-0}" \
  --lr "${LR:-1e-5}" --lr-scheduler polynomial_decay --total-num-update "$UPDATES" \
  --warmup-updates "$((UPDATES * 6 / 100))" --max-update "$UPDATES" \
  --batch-size "${BATCH:-16}" --no-epoch-checkpoints --save-dir "$SAVE_DIR" \
  --best-checkpoint-metric n_correct --maximize-best-checkpoint-metric \
  --distributed-world-size 1 ${precision[@]+"${precision[@]}"} "$@"
