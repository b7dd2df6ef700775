"""Methods of learning, one file each: frozen settings, which a recipe's ``[method]`` holds, and what they build."""
