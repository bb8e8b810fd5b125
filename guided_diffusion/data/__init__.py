"""From a file to an array, a case, a cache of cases and a stream of batches; sizes, symmetries, augmentation."""
