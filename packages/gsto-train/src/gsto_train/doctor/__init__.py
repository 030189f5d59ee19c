"""What is installed and whether it works: versions, machine, backends, data, optional libraries."""
