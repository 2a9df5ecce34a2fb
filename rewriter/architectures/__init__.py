"""Where the layers of an architecture are and which fields follow them: tables, and how they are looked up."""
