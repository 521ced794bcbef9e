#!/usr/bin/env bash
# Every measurement of the report, one after another, in a checkout with the data in data/: about a day on two
# CPU cores. What is measured already is kept, so that a run that stops goes on.
#
#     benchmarks/measure.sh runs/results
#     python -m benchmarks.report.report --results runs/results
set -euo pipefail
cd "$(dirname "$0")/.."
results=${1:?the folder for what is measured}
mkdir -p "$results"
sets=cranfield,wikiqa:test,stackexchange:test,xquad,mlquestions:test,nqgold,scitldr:test
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}" # accelerate gives a process one thread otherwise
backbone=$(python -c 'from fastlane_st.hub import base_weights; print(base_weights())')

# Quality, with the dense twin trained on the same batches, and a run of another seed.
if [ ! -d runs/dense-twin ]; then
  python -m training.dense_twin --config training/fastlane-minilm.yaml --output runs/dense-twin
fi
python -m benchmarks.quality.quality --data data/eval --sets "$sets" --dtype bfloat16 --backbone "$backbone" \
  --dense runs/dense-twin --out "$results"/quality.json
python -m benchmarks.quality.ablation --data data/eval \
  --sets mlquestions:dev,scitldr:dev,stackexchange:dev,wikiqa:dev --limit-queries 300 --limit-documents 1000 \
  --states runs/states --out "$results"/ablation.json
retrofit="python -m benchmarks.quality.retrofit --config training/fastlane-minilm.yaml"
$retrofit --documents 12000 --pairs 600 --steps 1500 --scratch runs/retrofit --out "$results"/retrofit.json
$retrofit --documents 50000 --pairs 2000 --contexts none --scratch runs/retrofit-50000 \
  --out "$results"/retrofit_50000.json
[ -d runs/retrofit/none-50000 ] || cp -r runs/retrofit-50000/none runs/retrofit/none-50000
python -m benchmarks.quality.checkpoints --data data/eval \
  --checkpoints runs/retrofit/none,runs/retrofit/none-untrained,runs/retrofit/none-50000,runs/retrofit/both,runs/retrofit/both-untrained,runs/retrofit/untrained,fastlane-minilm \
  --sets mlquestions:dev,scitldr:dev,stackexchange:dev,wikiqa:dev --limit-queries 300 --limit-documents 3000 \
  --states runs/states --out "$results"/retrofit_quality.json
python -m benchmarks.quality.checkpoints --data data/eval --checkpoints runs/retrofit/untrained,fastlane-minilm \
  --sets "$sets" --limit-queries 300 --limit-documents 2000 --dtype bfloat16 --states runs/states16 \
  --out "$results"/trained.json
dev=eval/mlquestions:dev,eval/scitldr:dev,eval/stackexchange:dev,eval/wikiqa:dev
dev=$dev,train/news.jsonl.gz,train/checkthat2020.jsonl.gz,train/wikiqa.jsonl.gz
python -m benchmarks.quality.variants --config training/fastlane-minilm.yaml --steps 128 --data data --sets "$dev" \
  --limit-queries 800 --limit-documents 2500 --dtype bfloat16 --scratch runs/variants --out "$results"/variants.json
python -m benchmarks.quality.long_documents --data data/eval --sets cranfield,wikiqa:dev,nqgold --dtype bfloat16 \
  --out "$results"/long_documents.json
fastlane diagnose fastlane-minilm data/eval/wikiqa --split dev --limit-documents 2000 --json "$results"/diagnostics.json
if [ ! -d runs/seed-1 ]; then
  accelerate launch -m training.train --config training/fastlane-minilm.yaml seed=1 output_dir=runs/seed-1
fi
python -m benchmarks.quality.reproduce --model runs/seed-1 --released "$results"/quality.json --data data/eval \
  --sets "${sets%,scitldr:test}" --dtype bfloat16 --out "$results"/seed.json

# A domain of one's own.
if [ ! -d runs/medquad ]; then
  python -m training.train --config training/medquad-lora.yaml
fi
python -m benchmarks.quality.domain --base fastlane-minilm --adapter runs/medquad --data data/eval --target medquad \
  --others nqgold --dtype bfloat16 --out "$results"/medquad.json
if [ ! -d runs/adapt-cranfield ]; then
  fastlane adapt data/eval/cranfield/corpus.jsonl.gz --out runs/adapt-cranfield
fi
python -m benchmarks.quality.domain --base fastlane-minilm --adapter runs/adapt-cranfield --data data/eval \
  --target cranfield --others nqgold --limit-queries 300 --limit-documents 2000 --out "$results"/adapt_cranfield.json
python -m benchmarks.quality.backends --data data/eval \
  --sets mlquestions:dev,scitldr:dev,stackexchange:dev,wikiqa:dev --limit-queries 300 --limit-documents 1000 \
  --out "$results"/backends_quality.json
python -m benchmarks.speed.backends --out "$results"/backends.json
if [ ! -d runs/before ]; then
  git worktree add runs/before 05d0b15^
fi
python -m benchmarks.speed.commands --before runs/before --out "$results"/commands.json
python -m benchmarks.speed.commands --collection data/eval/nqgold --rounds 2 --out "$results"/commands_nqgold.json
python -m benchmarks.speed.encoding --out "$results"/speed.json
python -m benchmarks.speed.training --config training/fastlane-minilm.yaml --steps 6 --rounds 3 \
  --settings st_trainer,st_trainer_st_loss,configured --out "$results"/training_speed.json

# Search. An environment is made for the engines of others; on two cores their indexes take long to build.
python -m benchmarks.search.vectors --judged data/eval/nqgold --others data/scale/manuals.jsonl.xz \
  --num-others 100000 --num-queries 500 --routes 0.25 --dtype bfloat16 --out runs/peers/vectors
python -m benchmarks.search.engines --collection runs/peers/vectors --scratch runs/peers --queries 300 \
  --engines exhaustive,fastlane-ivf-int8,plaid,bm25 --out "$results"/engines.json
python -m benchmarks.search.brute_force --collection runs/peers/vectors --out "$results"/brute_force.json
# With more engines over fewer documents.
python -m benchmarks.search.vectors --judged data/eval/nqgold --others data/scale/manuals.jsonl.xz \
  --num-others 36000 --num-queries 500 --routes 0.25 --dtype bfloat16 --out runs/peers-50k/vectors
python -m benchmarks.search.engines --collection runs/peers-50k/vectors --scratch runs/peers-50k --queries 300 \
  --engines exhaustive,fastlane-ivf-int8,plaid,warp,bm25 --out "$results"/peers.json
python -m benchmarks.search.vectors --judged data/eval/nqgold --num-queries 500 --routes 0.25 \
  --dtype bfloat16 --out runs/peers-14k/vectors
python -m benchmarks.search.engines --collection runs/peers-14k/vectors --scratch runs/peers-14k --queries 300 \
  --dense runs/dense-twin --out "$results"/small.json
python -m benchmarks.search.stores --collection runs/peers-14k/vectors --documents 8000 --queries 200 \
  --partitions 16 64 --scratch runs/stores --out "$results"/stores.json
python -m benchmarks.search.recall --collection runs/peers-50k/vectors --documents 10000 --out "$results"/recall.json
python -m benchmarks.search.scale --collection runs/peers-50k/vectors --scratch runs/scale --queries 300 \
  --efforts 0.125,0.25,0.5,1,2,4 --out "$results"/scale.json
python -m benchmarks.quality.selections --data data/eval --sets cranfield,wikiqa:test,stackexchange:test \
  --dtype bfloat16 --out "$results"/selections.json
python -m benchmarks.quality.routes --data data/eval --sets cranfield,wikiqa:test,stackexchange:test --dtype bfloat16 \
  --index runs/scale/100000 --out "$results"/by_routes.json
python -m benchmarks.search.growth --scratch runs/growth --out "$results"/growth.json
python -m tests.stress.soak --out "$results"/soak.json

# A server under load, and its memory. Its index has all views of 5,000 passages.
if [ ! -d runs/nqgold ]; then
  zcat data/eval/nqgold/corpus.jsonl.gz | sed -n 1,5000p > runs/nqgold.jsonl
  fastlane index runs/nqgold.jsonl --out runs/nqgold --storage int8
fi
zcat data/eval/nqgold/queries.jsonl.gz | python -c 'import json, sys; [print(json.loads(line)["text"]) for line in sys.stdin]' \
  > runs/nqgold.txt
python -m benchmarks.serve.load --index runs/nqgold --queries runs/nqgold.txt --out "$results"/serve.json
python -m benchmarks.serve.memory --index runs/nqgold --queries runs/nqgold.txt --minutes 10 \
  --out "$results"/serve_memory.json
