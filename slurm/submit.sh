#!/usr/bin/env bash
# Submits a job with the account, constraint and directories of slurm/site.env:
#
#   ALGO=grpo slurm/submit.sh [launcher options, such as --max-steps 300]
#   ALGO=ppo GPUS=4 SEEDS=1-3 slurm/submit.sh --config configs/mine.yaml
#   RUN=grpo-4711 slurm/submit.sh eval [options of eval]        MODEL=… slurm/submit.sh eval: the baseline
#   STUDY=configs/mine-study.yaml slurm/submit.sh study
#
# ALGO   grpo (default) or ppo
# GPUS   1 (default): learner and one actor share it; n: one learner, n - 1 actors
# SEEDS  a training job for each, as sbatch --array takes them
# RUN    a run in RUNS_DIR, such as grpo-4711: to go on with, or to evaluate
#
# Why not sbatch alone: #SBATCH lines cannot read variables, and SLURM opens the log files before the script runs, so
# their directory must be there before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=slurm/site.env
. slurm/site.env

purpose=train
case ${1:-} in
  train | eval | study)
    purpose=$1
    shift
    ;;
  [!-]*)
    echo "$1: expected train, eval or study before the options, found something else" >&2
    exit 2
    ;;
esac
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
if [[ -n ${RUN:-} && ! -e $RUNS_DIR/$RUN/config.json ]]; then
  echo "RUN: expected a run in $RUNS_DIR, found none of the name $RUN" >&2
  exit 2
fi
if [[ $purpose == study && ! -e ${STUDY:=configs/study-qwen2.5-3b.yaml} ]]; then
  echo "STUDY: expected a study file, found none at $STUDY" >&2
  exit 2
fi

mkdir -p logs "$RUNS_DIR" "$HF_HOME"
options=(--account="$ACCOUNT" --gpus="$GPUS")
case $purpose in
  train)
    options+=(--time="$TIME_LIMIT" --job-name="finellama-$ALGO")
    [[ -z ${SEEDS:-} ]] || options+=(--array="$SEEDS")
    export ALGO GPUS
    ;;
  eval) options+=(--time="$EVAL_TIME_LIMIT" --job-name="finellama-eval") ;;
  study)
    options+=(--time="$TIME_LIMIT" --job-name="finellama-study")
    export STUDY
    ;;
esac
[[ -z $CONSTRAINT ]] || options+=(--constraint="$CONSTRAINT")
exec sbatch "${options[@]}" "slurm/$purpose.sbatch" "$@"
