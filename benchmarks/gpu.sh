#!/usr/bin/env bash
# What to do with a GPU for ten minutes: the GPU tests, the tables of speed, then training with all the rest.
#
#   bash benchmarks/gpu.sh OUT CORPUS [SECONDS]
#
# OUT gets the logs and, every minute, the newest weights; CORPUS is a folder that `benchmarks.gpu_corpus pack` wrote.
# Each part has a limit of its own, so that none can cost the next. DEVICE=cpu rehearses it all with tiny numbers.
set -uo pipefail
out=${1:?usage: gpu.sh OUT CORPUS [SECONDS]}
corpus=${2:?usage: gpu.sh OUT CORPUS [SECONDS]}
total=${3:-560}
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$out"
work=$(mktemp -d)
begin=$SECONDS
left() { echo $((total - (SECONDS - begin))); }
part() { # part NAME LIMIT COMMAND...: run it, its output to a log, within a limit
  local name=$1 limit=$2
  shift 2
  local start=$SECONDS
  timeout -k 5 "$limit" "$@" > "$out/$name.log" 2>&1
  echo "$name: exit status $? after $((SECONDS - start)) s" | tee -a "$out/summary.txt"
  tail -n 3 "$out/$name.log"
}

if [ "$device" = cuda ]; then
  size=S; tests=60; speed=90; rivals=150; step="--batch_size 20 --segment 6.0 --num_workers 12 --precision bf16"
  step="$step --max_pause 3.0"
  sizes=(--sizes S L --seconds 4 --tasks inference training --precisions fp32 bf16 --rounds 5)
  rival_sizes=(S L); rival_options=(--seconds 4 --batch 4 --rounds 5)
else
  size=mini; tests=60; speed=60; rivals=60; step="--batch_size 2 --segment 1.0 --max_pause 0.5 --num_workers 0 --precision fp32"
  sizes=(--sizes mini --seconds 1 --tasks inference training --rounds 1)
  rival_sizes=(mini); rival_options=(--seconds 0.2 --rounds 1)
fi
"$python" -m benchmarks.gpu_corpus unpack "$corpus" "$work" > "$out/unpack.log" 2>&1 &
unpacking=$!
part tests "$tests" "$python" -m pytest -q tests/gpu
part speed "$speed" "$python" -m benchmarks.speed --device "$device" "${sizes[@]}"
# The authors' code, ours plain, plain and compiled, and with its own backward passes. Compiling takes most of it, so that
# each precision, size and task is a part of its own: what was measured stays when the time for all of them is over.
networks=(reference ours+plain ours ours+plain-compile)
"$python" -c "import modelscope" 2> /dev/null || networks=("${networks[@]:1}")
rivals_end=$((SECONDS + ${RIVALS_SECONDS:-$rivals}))
for precision in bf16 tf32 fp32; do
  for one in "${rival_sizes[@]}"; do
    for task in inference training; do
      name=rivals-$one-$precision-$task
      limit=$((rivals_end - SECONDS))
      [ "$limit" -gt 5 ] || { echo "$name: no time was left" | tee -a "$out/summary.txt"; continue; }
      part "$name" "$limit" "$python" -m benchmarks.speed --device "$device" --sizes "$one" "${rival_options[@]}" \
        --tasks "$task" --precisions "$precision" --networks "${networks[@]}" --output "$out/$name.md"
    done
  done
done
wait "$unpacking" || { cat "$out/unpack.log"; exit 1; }

# Training ends by its budget in time; what validation, test and export take is left aside.
minutes=$("$python" -c "print(max(0.2, ($(left) - 75) / 60))")
copy() { # the newest weights and the log, by way of a temporary name
  for file in train_log.txt epochs.csv log.txt test_results.csv; do
    [ -f "$work/run/$file" ] && cp "$work/run/$file" "$out/$file"
  done
  "$python" -m benchmarks.portable_state pack "$work/run" "$out/state.zip" > /dev/null 2>&1
  if [ -d "$work/run/export" ]; then tar -C "$work/run" -cf "$out/export.tar.part" export && mv "$out/export.tar.part" "$out/export.tar"; fi
}
while sleep 60; do copy; done &
copying=$!
# The experiment's own values are for a batch of one example on a CPU.
step="$step --grad_accumulation_factor 1 --max_batch_grad_norm null --turn_segment null --similar_pitch_rate 0"
# shellcheck disable=SC2086
part training "$(left)" "$python" train.py hparams/mossformer_many_speakers.yaml --device "$device" --noprogressbar \
  --clips_folder "$work/clips" --recorded_noise_folder "$work/noise" --list_file "$work/list.csv" \
  --data_folder "$work/corpus" --output_folder "$work/run" --model_size "$size" --train_minutes "$minutes" \
  --epoch_minutes "${EPOCH_MINUTES:-1}" --ckpt_interval_minutes 1 --num_train 3 --num_valid 30 --num_test "${NUM_TEST:-90}" --corpus_rooms "${NUM_ROOMS:-200}" \
  --num_noises 40 --n_audio_to_save 0 $step
kill "$copying" 2> /dev/null
copy
rm -rf "$work"
cat "$out/summary.txt"
