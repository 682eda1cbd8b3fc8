"""What the command line and `import likewise` do, one file a verb: they tie the parts together and own no science."""
