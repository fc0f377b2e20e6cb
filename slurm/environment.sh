# Read by every script here, on the first node of a job. What differs between clusters is set here, or when a job is
# submitted: HF_HUB_OFFLINE=1 ACCELERATOR=cpu sbatch slurm/train.sbatch ...

# gpu, or cpu where a job asks for no GPU
export ACCELERATOR="${ACCELERATOR:-gpu}"

# 1 where nodes have no network: models and data then come from the cache of the Hub alone (HF_HOME, on a disk that the
# nodes see), filled beforehand by `hf download` where there is one
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-0}"

# srun does not hand the job's cores on by itself
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"
fi

# the environment that `make install` makes; a module or conda environment of your cluster goes here instead
if [ -f .venv/bin/activate ]; then
    source .venv/bin/activate
fi
