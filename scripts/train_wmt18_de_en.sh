#!/usr/bin/env bash
# Trains a German-English model on WMT'18 with the recipe of Edunov et al. (2018), as in
# step 2 of fairseq's examples/backtranslation. No such model was ever published.
#
# Usage:  CORPUS=wmt18 TO=models/wmt18.de-en scripts/train_wmt18_de_en.sh [OPTION...]
#         options are passed to fairseq-train; rerun to resume. CORPUS holds train.de, train.en:
#         Europarl v7, Common Crawl, News Commentary v13 and Rapid 2016, concatenated, from
#         https://www.statmt.org/wmt18/translation-task.html; test.de test.en: newstest2017
# Writes: TO (model.pt, dict.de.txt, dict.en.txt, bpecodes, bleu.json) and TO.work.
# Cost:   written for 8 GPUs with 16 GB. Expected: BLEU 34.9 on newstest2017 (fairseq's page).
# Settings: CORPUS, TO; MERGES (32000); JOBS (4), cores for preprocessing; GPUS (1) on
#           this machine; UPDATE_FREQ (128 / GPUS); PRECISION (--fp16), empty without a GPU
set -euo pipefail
CORPUS=${CORPUS:?set it to the folder of the corpus} TO=${TO:?set it to the output folder}
for name in {train,test}.{de,en}; do : <"$CORPUS/$name"; done # fails if one is missing
text=$TO.work/text data=$TO.work/data saved=$TO.work/checkpoints codes=$TO.work/bpecodes
GPUS=${GPUS:-1} && read -ra precision <<<"${PRECISION---fp16}"
step() { [[ -e $1 ]] || { "${@:2}" >"$1.new" && mv "$1.new" "$1"; }; }
tokens() { sacremoses -q -l "$1" -j "${JOBS:-4}" normalize tokenize -a -x <"$CORPUS/train.$1"; }
pieces() { subword-nmt apply-bpe -c "$codes" <"$TO.work/tokens.$1"; }
merges() { cat "$TO.work"/tokens.?? | subword-nmt learn-bpe -s "${MERGES:-32000}"; }

mkdir -p "$TO.work/pieces"
for lang in de en; do step "$TO.work/tokens.$lang" tokens "$lang"; done
step "$codes" merges
for lang in de en; do step "$TO.work/pieces/train.$lang" pieces "$lang"; done
[[ -d $text ]] ||
  fairseq-scl translation clean --from "$TO.work/pieces" --source de --target en --to "$text"
[[ -d $data ]] || { fairseq-preprocess -s de -t en --joined-dictionary --workers "${JOBS:-4}" \
  --trainpref "$text/train" --validpref "$text/valid" --destdir "$data.new"; mv "$data.new" "$data"; }
fairseq-train "$data" --user-dir "$(fairseq-scl user-dir)" -s de -t en --task translation \
  ${precision[@]+"${precision[@]}"} --arch transformer_wmt_en_de_big --share-all-embeddings \
  --dropout 0.3 --weight-decay 0.0 --criterion label_smoothed_cross_entropy \
  --label-smoothing 0.1 --optimizer adam --adam-betas "(0.9, 0.98)" --clip-norm 0.0 \
  --lr 0.001 --lr-scheduler inverse_sqrt --warmup-updates 4000 --max-tokens 3584 \
  --distributed-world-size "$GPUS" --update-freq "${UPDATE_FREQ:-$((128 / GPUS))}" \
  --max-update 30000 --save-dir "$saved" "$@"
fairseq-scl translation export --from "$CORPUS" --source de --target en --to "$TO" \
  --checkpoints "$saved/checkpoint_best.pt" --data "$data" --pieces "$codes" --tokenizer moses
