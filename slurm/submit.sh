#!/usr/bin/env bash
# Submits a training job with the account, constraint and directories of slurm/site.env:
#
#   ALGO=grpo slurm/submit.sh [launcher options, such as --max-steps 300]
#   ALGO=ppo GPUS=4 SEEDS=1-3 slurm/submit.sh --config configs/mine.yaml
#
# ALGO   grpo (default) or ppo
# GPUS   1 (default): learner and one actor share it; n: one learner, n - 1 actors
# SEEDS  a job for each, as sbatch --array takes them
# RUN    a run in RUNS_DIR to go on with, such as grpo-4711
#
# Why not sbatch alone: #SBATCH lines cannot read variables, and SLURM opens the log files before the script runs, so
# their directory must be there before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=slurm/site.env
. slurm/site.env

: "${ALGO:=grpo}"
case $ALGO in
  grpo | ppo) ;;
  *)
    echo "ALGO: expected grpo or ppo, found $ALGO" >&2
    exit 2
    ;;
esac
if [[ $ACCOUNT == YOUR-ACCOUNT ]]; then
  echo "ACCOUNT: expected the account that pays for the job, found the placeholder $ACCOUNT; set it in slurm/site.env" >&2
  exit 2
fi
if [[ ! $GPUS =~ ^[1-9][0-9]*$ ]]; then
  echo "GPUS: expected a whole number of at least 1, found $GPUS" >&2
  exit 2
fi
if [[ ! -e $CONTAINER ]]; then
  echo "CONTAINER: no image at $CONTAINER; build it (docs/slurm.md): apptainer build $CONTAINER slurm/finellama.def" >&2
  exit 2
fi

mkdir -p logs "$RUNS_DIR" "$HF_HOME"
options=(
  --account="$ACCOUNT"
  --gpus="$GPUS"
  --time="$TIME_LIMIT"
  --job-name="finellama-$ALGO"
)
[[ -z $CONSTRAINT ]] || options+=(--constraint="$CONSTRAINT")
[[ -z ${SEEDS:-} ]] || options+=(--array="$SEEDS")
export ALGO GPUS
exec sbatch "${options[@]}" slurm/train.sbatch "$@"
