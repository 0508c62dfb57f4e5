"""The worker process: Celery takes commands off one queue, threads hand them to one engine."""
