"""The message broker: queues as data, one publisher, two kinds of consumer. RabbitMQ or pgmq through the same code."""
