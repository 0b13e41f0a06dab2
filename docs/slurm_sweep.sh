#!/bin/sh
# A grid as Slurm job arrays. In the repository's root, on a folder that all nodes see, with the environment active:
#     sh docs/slurm_sweep.sh sweeps/variants.yaml [OPTIONS OF SBATCH, such as --gres=gpu:1 --cpus-per-task=4]
# What experiments share is an array that the next one waits for. The same command again submits what has not finished,
# once the jobs before have ended. Each job works in a clone of its own; results are experiments of this repository.
set -eu
list=.scratch/slurm/pending

if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    git diff --quiet HEAD || { echo "error: jobs run what is committed: git commit first" >&2; exit 1; }
    grid=$1
    shift
    mkdir -p .scratch/slurm
    python -m pipeline pending "$grid" > "$list"
    after=
    for target in download queries evaluate; do
        numbers=$(grep -n "^[^ ]* $target " "$list" | cut -d: -f1 | paste -sd, -)
        [ -n "$numbers" ] || continue
        after=$(sbatch --parsable --array="$numbers" ${after:+"--dependency=afterany:$after"} \
            --job-name="$target" --output=.scratch/slurm/%a.log "$@" "$0")
        echo "$target: job $after"
    done
    exit
fi

eval "set -- $(sed -n "${SLURM_ARRAY_TASK_ID}p" "$list")"
name=$1 target=$2
shift 2
repository=$(git rev-parse --show-toplevel) folder=$(git rev-parse --show-prefix) commit=$(git rev-parse HEAD)
cache=$(dvc cache dir)
work=$(mktemp -d)
trap 'code=$?; [ $code = 0 ] || echo "$name failed on ${SLURMD_NODENAME:-$(hostname)}" >&2; rm -rf "$work"' EXIT
export DVC_SITE_CACHE_DIR="$work/site"
git clone -qn "$repository" "$work/clone"
cd "$work/clone"
git checkout -q --detach "$commit"
cd "./$folder"
dvc cache dir --local "$cache"
dvc checkout -q --allow-missing
python -m pipeline.dvc exp run -n "$name" "$@" "$target"
if [ "$target" = evaluate ]; then
    dvc exp push --no-cache origin "$name"
    echo "$name finished on ${SLURMD_NODENAME:-$(hostname)}"
fi
