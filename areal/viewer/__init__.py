"""What people look at: the list of runs, and what a model wrote in one."""
