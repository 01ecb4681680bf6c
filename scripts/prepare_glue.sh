#!/usr/bin/env bash
# Draws the splits and few-shot samples of section 4.1 for the paper's tasks and writes a
# data folder for each: DATA_BIN/SST-2/full, DATA_BIN/SST-2/n20-sample0 …
#
# Usage:  ENCODER=roberta.large scripts/prepare_glue.sh [OPTION...]
#         options are passed to every `fairseq-scl prepare`
# Writes: GLUE (official files, if they are missing) and DATA_BIN. An existing folder of a
#         task is left as it is, whatever the options. An encoder given by name is kept in
#         ~/.cache/fairseq-scl.
# Cost:   downloads 333 MB; SST-2 takes 10 seconds on one core, other tasks were not timed.
# Settings: ENCODER   name (roberta.large …) or encoder folder, see docs/encoders.md
#           GLUE      official files                  (default: data-bin/glue)
#           DATA_BIN  data folders                    (default: data-bin)
#           TASKS     tasks to prepare     (default: SST-2 CoLA MRPC RTE QNLI MNLI)
#           SIZES     few-shot sizes, and full          (default: full 20 100 1000)
set -euo pipefail
GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
ENCODER=${ENCODER:?set it to an encoder folder or name}
read -ra tasks <<<"${TASKS:-SST-2 CoLA MRPC RTE QNLI MNLI}"
fail() { echo "prepare_glue.sh: $*" >&2 && exit 2; }
command -v fairseq-scl >/dev/null ||
  fail "fairseq-scl was not found: run 'make install' and '. .venv/bin/activate'"
[[ -f $ENCODER/dict.txt ]] || fairseq-scl download --encoder "$ENCODER" >/dev/null
few=() full=()
for size in ${SIZES:-full 20 100 1000}; do
  [[ $size == full ]] && full=(--full) || few+=("$size")
done
[[ ${#few[@]} -eq 0 ]] || few=(--few-shot "${few[@]}")
for task in "${tasks[@]}"; do
  [[ ! -d $DATA_BIN/$task ]] || continue
  case $task in
    Amazon-2) files=amazon_review_polarity_csv ;;
    Yelp-2) files=yelp_review_polarity_csv ;;
    *) files=$task ;;
  esac
  [[ -d $GLUE/$files ]] || fairseq-scl download --task "$task" --to "$GLUE"
  fairseq-scl prepare --task "$task" --from "$GLUE" --encoder "$ENCODER" \
    --to "$DATA_BIN/$task" ${full[@]+"${full[@]}"} ${few[@]+"${few[@]}"} "$@"
done
