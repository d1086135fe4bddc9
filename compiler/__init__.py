"""The front desk: capture, pipelines, planner, runtime, command line."""
