#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The runs behind docs/results/sst2-modes.md: every way to train, on SST-2 split as in the paper, one seed.
# usage: SIDENET_DATA=... SIDENET_BERT=... sst2_modes.sh RUN ...
# RUN: mainnet, frozen-mean, frozen-cls, body, joint-1-2-3, distilled-1-2-3, joint-2, cut-1, cut-2, cut-3
# (frozen and body runs need `mainnet` first; numbers are the blocks before each SideNet, or all that there are)
set -euo pipefail
: "${SIDENET_DATA:?folder that holds sst2/{train,dev,test}.tsv}" "${SIDENET_BERT:?folder or Hub id of a BERT}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
here="$(dirname "${BASH_SOURCE[0]}")"
out="${OUTPUT_DIR:-outputs/sst2-modes}"

train() {
    python "$here/run_text_classification.py" --output_dir "$out/$run" --do_train --do_eval --seed 0 \
        --train_file "$SIDENET_DATA/sst2/train.tsv" --validation_file "$SIDENET_DATA/sst2/dev.tsv" \
        --test_file "$SIDENET_DATA/sst2/test.tsv" --column_names text label --resplit 5000 1613 3000 \
        --per_device_train_batch_size 32 --per_device_eval_batch_size 32 --eval_strategy epoch --save_strategy epoch \
        --save_total_limit 1 --load_best_model_at_end true --logging_strategy epoch --report_to none "$@"
}
tune() {
    train --model_name_or_path "$SIDENET_BERT" --num_train_epochs 3 --learning_rate 5e-5 --warmup_steps 0.1 \
        --metric_for_best_model accuracy "$@"
}
attach() {
    train --model_name_or_path "$out/mainnet" --exit_layers 1 2 3 --num_train_epochs 6 --learning_rate 1e-3 \
        --metric_for_best_model loss --greater_is_better false "$@"
}

for run in "$@"; do
    layers="${run#*-}"
    case "$run" in
        mainnet) tune ;;
        frozen-mean) attach --pooling mean ;;
        frozen-cls) attach --pooling cls ;;
        body) attach --freeze_mainnet body ;;
        joint-*) tune --exit_layers ${layers//-/ } --freeze_mainnet none --sidenet_learning_rate 1e-3 ;;
        distilled-*)
            tune --exit_layers ${layers//-/ } --freeze_mainnet none --sidenet_learning_rate 1e-3 \
                --distillation_weight 0.5 --distillation_temperature 2
            ;;
        cut-*) tune --config_overrides "{\"num_hidden_layers\": $layers}" ;;
        *) echo "unknown run: $run" >&2 && exit 2 ;;
    esac
done
