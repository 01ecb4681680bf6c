#!/usr/bin/env bash
# Back-translates few-shot samples (section 5.2 of Gunel et al. 2021): to German and back,
# sampled at each temperature, three new examples for each.
#
# Usage:  FORWARD=mt/en-de BACKWARD=mt/de-en scripts/backtranslate.sh [OPTION...]
#         the options go to `fairseq-scl backtranslate`; started again, it goes on
# Writes: AUGMENTED/SST-2/n100-sample0-bt0.3.jsonl … and a record beside each; then
#         `fairseq-scl prepare --sample … --augmented …` makes data folders, as table5.sh.
# Cost:   40 seconds of one core per sample with the models of train_translation.sh; the
#         published models want a GPU.
# Settings: FORWARD, BACKWARD   translation models: a checkpoint or a folder with *.pt,
#                               dict.en.txt, dict.de.txt and BPE codes, several joined
#                               with a colon; or wmt18, wmt19, which are downloaded
#           DATA_BIN      has the samples, from prepare_glue.sh (default: data-bin)
#           GLUE          official files they were drawn from   (default: data-bin/glue)
#           AUGMENTED     where to write                   (default: data-bin/augmented)
#           TASKS, SIZES, SAMPLES (the first so many)  (SST-2 QNLI MNLI; 100; all)
#           TEMPERATURES  of the sampling                              (0.3 0.5 0.7 0.9)
set -euo pipefail
FORWARD=${FORWARD:?name a translation model} BACKWARD=${BACKWARD:?name one for the way back}
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
    "${sizes[*]} in $DATA_BIN/$task: run prepare_glue.sh" >&2 && exit 2; }
  fairseq-scl backtranslate --sample "${samples[@]}" --from "${GLUE:-data-bin/glue}" \
    --forward "$FORWARD" --backward "$BACKWARD" --temperature "${temperatures[@]}" \
    --to "$AUGMENTED/$task" "$@"
done
