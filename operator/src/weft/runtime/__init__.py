"""The operator as a process: API client, object cache, work queue, leadership, wiring."""
