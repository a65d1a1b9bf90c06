"""``stabilizer doctor``: the permissions of the library, and an examination of a registry's Redis."""
