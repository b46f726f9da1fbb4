"""Tasks of the command `import`."""
