"""The message broker: queues as data, publishing, consuming, and the broadcast of cancels. RabbitMQ or pgmq."""
