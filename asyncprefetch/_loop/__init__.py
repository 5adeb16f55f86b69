"""The event loop's side: what is known of each shard, who gets credit, the order of delivery, and how workers are ended."""
