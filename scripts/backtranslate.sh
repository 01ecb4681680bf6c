#!/usr/bin/env bash
# Back-translates few-shot samples (section 5.2 of Gunel et al. 2021): to German and back,
# sampled at each temperature, with three new examples per example.
#
# Usage:  FORWARD=mt/en-de BACKWARD=mt/de-en scripts/backtranslate.sh [OPTION...]
#         options are passed to `fairseq-scl backtranslate`; rerun to resume
# Writes: AUGMENTED/SST-2/n100-sample0-bt0.3.jsonl … and a JSON file each. To make
#         data folders, use `fairseq-scl prepare --sample … --augmented …` as in table5.sh.
# Cost:   40 seconds on one core per sample with models from train_translation.sh; the
#         published models need a GPU.
# Settings: FORWARD, BACKWARD   translation models: a checkpoint or a folder with *.pt,
#                               dict.en.txt, dict.de.txt and BPE codes; join several
#                               with colons; or wmt18, wmt19, which are downloaded
#           DATA_BIN      samples written by prepare_glue.sh    (default: data-bin)
#           AUGMENTED     output folder                    (default: data-bin/augmented)
#           TASKS, SIZES, SAMPLES (how many, from the first)  (SST-2 QNLI MNLI; 100; all)
#           TEMPERATURES  sampling temperatures                        (0.3 0.5 0.7 0.9)
set -euo pipefail
FORWARD=${FORWARD:?set it to a model} BACKWARD=${BACKWARD:?set it to a model for the way back}
DATA_BIN=${DATA_BIN:-data-bin} AUGMENTED=${AUGMENTED:-data-bin/augmented}
read -ra tasks <<<"${TASKS:-SST-2 QNLI MNLI}"
read -ra sizes <<<"${SIZES:-100}"
read -ra temperatures <<<"${TEMPERATURES:-0.3 0.5 0.7 0.9}"

for task in "${tasks[@]}"; do
  samples=()
  for size in "${sizes[@]}"; do
    for folder in "$DATA_BIN/$task/n$size"-sample*; do
      [[ $folder =~ -sample([0-9]+)$ && -f $folder/draw.json ]] || continue
      [[ ${BASH_REMATCH[1]} -ge ${SAMPLES:-1000} ]] || samples+=("$folder")
    done
  done
  [[ ${#samples[@]} -gt 0 ]] || { echo "backtranslate.sh: there is no sample of" \
    "${sizes[*]} in $DATA_BIN/$task: run prepare_glue.sh first" >&2 && exit 2; }
  fairseq-scl backtranslate --sample "${samples[@]}" \
    --forward "$FORWARD" --backward "$BACKWARD" --temperature "${temperatures[@]}" \
    --to "$AUGMENTED/$task" "$@"
done
