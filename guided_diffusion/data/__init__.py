"""Files to arrays, cases, a cache of cases and a stream of batches; resizing, symmetries, augmentation."""
