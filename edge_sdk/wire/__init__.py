"""Records to bytes and back, the topic grammar, and the bundle on disk; sizes are checked before anything is parsed."""
