"""One run: settings become a job, the job goes through the loop, and its folder keeps what came of it."""
