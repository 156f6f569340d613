"""What a node that is alone keeps in its own memory, as good as the shared stores."""
