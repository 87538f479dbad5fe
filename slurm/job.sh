# shellcheck shell=bash
# What every job of slurm/ does first, and how it ends. Sourced from the project's folder, after site.env.
#
# Near its time limit SLURM sends the job USR1, on scancel and preemption TERM. Either way the program in the container
# gets TERM: it writes what it has and ends with 143. After USR1 the job then puts itself back into the queue, and what it
# does next time goes on from there; after TERM the queue is SLURM's affair, so that a cancelled job stays cancelled.

# What SLURM means by this task alone: one task of an array has the array's own id, by which all of it would be meant.
job=$SLURM_JOB_ID
[[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

mkdir -p "$RUNS_DIR" "$HF_HOME" "$CUDA_CACHE_PATH"
binds=$PWD,$RUNS_DIR,$HF_HOME,$CUDA_CACHE_PATH
export CUDA_CACHE_PATH HF_HOME HF_HUB_CACHE="${HF_HUB_CACHE:-$HF_HOME/hub}"
# compute nodes often reach no network: models are downloaded before (docs/slurm.md)
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
# by environment and not as an argument, which every user of the node could read
if [[ -z ${HF_TOKEN:-} && -r $HF_TOKEN_FILE ]]; then
  HF_TOKEN=$(tr -d '[:space:]' <"$HF_TOKEN_FILE")
  export HF_TOKEN
fi

say() { echo "$(date '+%F %T') $*"; }

if [[ $MPS == 1 ]]; then
  if ! command -v nvidia-cuda-mps-control >/dev/null; then
    echo "MPS=1: expected nvidia-cuda-mps-control on $(hostname), found none; set MPS=0 in slurm/site.env" >&2
    exit 2
  fi
  mps=$(mktemp -d "${TMPDIR:-/tmp}/mps-$SLURM_JOB_ID-XXXXXX")
  mkdir "$mps/pipe" "$mps/log"
  export CUDA_MPS_PIPE_DIRECTORY=$mps/pipe CUDA_MPS_LOG_DIRECTORY=$mps/log
  nvidia-cuda-mps-control -d
  trap 'echo quit | nvidia-cuda-mps-control || true; rm -rf "$mps"' EXIT
  binds+=,$mps
fi

asked=
# shellcheck disable=SC2317 # called by the traps
pass_on() {
  asked=$1
  say "$1: asking the program to save and end"
  # to the step's processes: TERM to srun itself would have it kill them within seconds
  scancel --signal=TERM "$job.0" || true
}

# run_in_container GO_ON SCRIPT [ARGUMENTS]: runs node dist/SCRIPT in the container as the job's step, and ends the job.
# GO_ON is the command that goes on by hand, should the queue not take the job back.
run_in_container() {
  local go_on=$1 script=$2
  shift 2
  say "job $SLURM_JOB_ID on $(hostname): $*"
  # Node 20 is in the image, as are TensorFlow, ONNX Runtime and CUDA; --nv brings the host's driver
  srun --ntasks=1 apptainer exec --nv --bind "$binds" "$CONTAINER" node "/opt/finellama/dist/$script" "$@" &
  local program=$! status=0
  trap 'pass_on USR1' USR1
  trap 'pass_on TERM' TERM
  # a trapped signal ends `wait` early; the program is still writing then
  while kill -0 "$program" 2>/dev/null; do
    wait "$program" || true
  done
  wait "$program" || status=$?
  # 143: ended by TERM. What was complete, or failed meanwhile, is not started again.
  if [[ $asked == USR1 && $status -eq 143 ]]; then
    say "saved; back into the queue"
    if ! scontrol requeue "$job"; then
      say "expected the job back in the queue, but scontrol failed; what it has is saved: $go_on goes on" >&2
      exit 1
    fi
    exit 0
  fi
  exit "$status"
}
