"""Readers of published rating sets: a file a family, each function one set.

A reader takes the folder of a set, finds the published files in it under the names of the set's
manifest, and returns a `scorekit.ratings.RatingSet`. What the files don't say (scales, licence,
citation) comes from the manifest (`scorekit.manifests`).
"""
