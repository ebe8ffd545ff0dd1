"""What a Deployment lacks: the loader, the model server, the volumes; and the record of what it got."""
